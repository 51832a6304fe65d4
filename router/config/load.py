"""From a deployment file and flags to a configuration that can be used, or to everything that is wrong with it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.faults import ConfigFileError, faults_of
from dualmap.router.config.named_files import unusable_files
from dualmap.router.config.rules import contradictions
from dualmap.router.config.yaml_file import YamlFile, read_yaml

__all__ = ["ConfigFileError", "load_config"]


def load_config(path: Path | None, overrides: Mapping[str, Any], *, elsewhere: bool = False) -> DualMapConfig:
    """Read the file, if there is one, and lay the overrides over it, section by section. Raises ConfigFileError.

    elsewhere: the configuration is another machine's: the files of keys and certificates that it names are there.
    """
    file = YamlFile() if path is None else read_yaml(path, os.environ)
    faults = list(file.faults)
    file.overlay(overrides)
    if not faults:
        try:
            config = DualMapConfig.model_validate(file.values)
        except ValidationError as error:
            faults += faults_of(error)
        else:
            faults += contradictions(config)
            if not elsewhere:
                faults += unusable_files(config.gateway)
            if not faults:
                return config
    raise ConfigFileError("\n".join(map(file.describe, faults)))
