"""From a deployment file and flags to a configuration that can be used, or to everything that is wrong with it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.faults import ConfigFileError, Fault, faults_of
from dualmap.router.config.installed_policies import check_policy, register_installed_policies
from dualmap.router.config.named_files import unusable_files
from dualmap.router.config.rules import contradictions, place_of
from dualmap.router.config.yaml_file import YamlFile, read_yaml
from dualmap.scheduler.errors import ConfigError

__all__ = ["ConfigFileError", "load_config"]


def load_config(path: Path | None, overrides: Mapping[str, Any], *, elsewhere: bool = False) -> DualMapConfig:
    """Read the file, if there is one, and lay the overrides over it, section by section. Raises ConfigFileError.

    elsewhere: the configuration is another machine's: the files of keys and certificates that it names are there.
    """
    file = YamlFile() if path is None else read_yaml(path, os.environ)
    file.overlay(overrides)
    try:
        if not file.faults:
            register_installed_policies()
            config = DualMapConfig.model_validate(file.values)
            file.faults += _faults(config, elsewhere)
            if not file.faults:
                return config
    except ValidationError as error:
        file.faults += faults_of(error)
    except ConfigError as error:  # of packages that provide policies
        file.faults.append(Fault(("scheduler", "policy"), str(error)))
    raise ConfigFileError("\n".join(map(file.describe, file.faults)))


def _faults(config: DualMapConfig, elsewhere: bool) -> Iterator[Fault]:
    yield from contradictions(config)
    for name, pool in config.all_pools().items():
        try:
            check_policy(pool.scheduler)
        except ConfigError as error:
            yield Fault((*place_of(name), "scheduler", "policy"), str(error))
    if not elsewhere:
        yield from unusable_files(config)
