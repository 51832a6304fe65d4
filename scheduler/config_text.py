"""Settings of SchedulerConfig as a command line gives them: --set NAME=VALUE."""

from collections.abc import Collection, Iterable
from dataclasses import fields
from typing import Any, get_args, get_origin

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.errors import ConfigError

_SWITCHES = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


def read_settings(texts: Iterable[str], fixed: Collection[str] = ()) -> dict[str, Any]:
    """fixed: names that cannot be set so. Raises ConfigError; whether a value keeps its rule, SchedulerConfig says."""
    types = {field.name: field.type for field in fields(SchedulerConfig) if field.name not in fixed}
    found: dict[str, Any] = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not given or name not in types:
            raise ConfigError(f"--set takes NAME=VALUE, not {text!r}; names are {', '.join(types)}")
        found[name] = _typed(name, types[name], value)
    return found


def _typed(name: str, wanted: Any, value: str) -> Any:
    if get_origin(wanted) is tuple:
        return tuple(value.split(",")) if value else ()
    wanted = next(iter(get_args(wanted)), wanted)  # of one that may be None
    try:
        return _SWITCHES[value.lower()] if wanted is bool else wanted(value)
    except (KeyError, ValueError):
        what = "true or false" if wanted is bool else f"a value of type {wanted.__name__}"
        raise ConfigError(f"--set {name} takes {what}, not {value!r}") from None
