"""Values as they come from a command line. Each function raises ValueError, with the option and what it takes."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from scheduler.config import POLICY_NAMES, SchedulerConfig

_SWITCHES = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


def read_policies(text: str) -> list[str]:
    """Names with commas between, or all."""
    names = list(POLICY_NAMES) if text == "all" else _parts(text)
    for name in names:
        if name not in POLICY_NAMES:
            raise ValueError(f"--policy: no policy {name!r}; there are {', '.join(POLICY_NAMES)}, or all")
    if not names:
        raise ValueError("--policy needs a name")
    return list(dict.fromkeys(names))


def read_overrides(texts: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """name=value for fields of SchedulerConfig."""
    types = {field.name: field.type for field in fields(SchedulerConfig) if field.name not in ("policy", "ttft_slo_s")}
    found: dict[str, Any] = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not given or name not in types:
            raise ValueError(f"--set takes NAME=VALUE, not {text!r}; names are {', '.join(types)}")
        found[name] = _typed(name, types[name], value)
    return tuple(sorted(found.items()))


def numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in _parts(text))
    except ValueError:
        found = ()
    if not found:
        raise ValueError(f"{option} takes numbers with commas between, not {text!r}")
    return tuple(dict.fromkeys(found))


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    found = numbers(text, option)
    for value in found:
        if value < 1 or value != int(value):
            raise ValueError(f"{option} takes whole numbers of at least 1, not {value:g}")
    return tuple(map(int, found))


def _typed(name: str, wanted: Any, value: str) -> Any:
    try:
        if wanted is bool:
            return _SWITCHES[value.lower()]
        return wanted(value)
    except (KeyError, ValueError):
        what = "true or false" if wanted is bool else f"a value of type {wanted.__name__}"
        raise ValueError(f"--set {name} takes {what}, not {value!r}") from None


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
