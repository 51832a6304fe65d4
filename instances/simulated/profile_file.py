"""Files with fields of EngineProfile, in YAML and so in JSON: what the simulated server and the simulator load, and
`dualmap calibrate` writes."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from dualmap.instances.simulated.engine_profile import EngineProfile, ProfileError

DIGITS = 4  # of seconds, when written: no measurement has more


def read_profile(path: Path, defaults: EngineProfile) -> EngineProfile:
    """defaults: what the file leaves out. Raises ValueError, with the file, the rule and the value."""
    values = read_mapping(path)
    types = {field.name: field.type for field in fields(EngineProfile)}
    for key, value in values.items():
        if key not in types:
            raise ValueError(f"{path}: unknown field {key!r}; known are {', '.join(sorted(types))}")
        if type(value) not in (int, float):
            raise ValueError(f"{path}: {key} must be a number, not {value!r}")
        if types[key] is float:
            values[key] = float(value)
    try:
        return replace(defaults, **values)
    except ProfileError as error:
        raise ValueError(f"{path}: {error}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Raises ValueError if the file is not one of names with values."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: neither JSON nor YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{path}: expected names with values, found {type(values).__name__}")
    return values


def profile_text(profile: EngineProfile, comments: Sequence[str]) -> str:
    """All fields, in their order, below the comments."""
    lines = [f"# {comment}".rstrip() for comment in comments]
    lines += [f"{field.name}: {_number(getattr(profile, field.name))}" for field in fields(profile)]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """YAML 1.1 takes 1e-05 for text: it wants the point."""
    if isinstance(value, int):
        return str(value)
    text = f"{value:.{DIGITS}g}"
    return text.replace("e", ".0e") if "e" in text and "." not in text else text
