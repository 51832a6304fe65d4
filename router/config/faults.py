"""What is wrong with a configuration: place, rule, and the value where it can be no secret."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import ValidationError

from dualmap.router.config.config import DualMapConfig
from dualmap.scheduler.config import SchedulerConfig

Place = tuple[str | int, ...]  # keys and positions, from the top of the file down

_SECRET = re.compile(
    r"(^|[-_])(token|bearer|auth|(api)?keys?|secrets?|passwords?|passwd|pwd|credentials?|env|engine_args)([-_]|$)", re.I
)
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")  # apiKey is api_key
_USER = re.compile(r"//[^/@]*@")  # of a URL, with a password
_NO_SECRETS = {field.name for field in fields(SchedulerConfig)}  # such as key_blocks
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


class ConfigFileError(Exception):
    """The configuration is wrong; one line for each place, with its path, the rule and the value."""


@dataclass(frozen=True, slots=True)
class Fault:
    """place: empty for the whole configuration. value: what breaks the rule, as text; empty where it is not shown."""

    place: Place
    rule: str
    value: str = ""


def faults_of(error: ValidationError) -> Iterator[Fault]:
    """The faults that pydantic has found. No section is shown, nor a value whose key is one of a secret."""
    for item in error.errors():
        place = item["loc"]
        if item["type"] in _UNKNOWN:
            rule = f"unknown key{_suggestion(place)}"
        else:
            rule = item["msg"].removeprefix("Value error, ")
        told = item["type"] == "value_error" or isinstance(item["input"], (dict, list, tuple)) or is_secret(place)
        yield Fault(place, rule, "" if told else _USER.sub("//...@", repr(item["input"])))


def dotted(place: Place) -> str:
    """As people write it: `gateway.port`."""
    return ".".join(map(str, place))


def is_secret(place: Place) -> bool:
    """Whether what stands there may be a secret, by the names of its keys."""
    names = [_HUMP.sub("_", part) for part in place if isinstance(part, str)]
    return any(_SECRET.search(name) and name not in _NO_SECRETS for name in names)


def _suggestion(place: Place) -> str:
    """The known key that an unknown one is nearest to: beside it, else of the same name in another section."""
    name = str(place[-1])
    beside = _keys(place[:-1])
    close = get_close_matches(name, beside, n=1) or [key for key in beside if key.startswith(f"{name}_")][:1]
    if not close and name not in beside:
        close = [f"{section}.{name}" for section in _keys(()) if name in _keys((section,))][:1]
    return f"; did you mean {close[0]}?" if close else ""


def _keys(place: Place) -> list[str]:
    """Those that are known there."""
    schema = _schema()
    options = [schema]
    for part in place:
        options = [below for option in options for below in _below(option, part)]
    return [key for option in options for key in option.get("properties", ())]


def _below(schema: dict[str, Any], part: str | int) -> Iterator[dict[str, Any]]:
    """What may stand under a key or at a position."""
    if isinstance(part, int):
        found = schema.get("items", {})
    else:
        (any_name,) = schema.get("patternProperties", {"": {}}).values()
        found = schema.get("properties", {}).get(part, any_name)
    for option in found.get("anyOf", (found,)):
        name = option.get("$ref", "").rpartition("/")[2]
        yield _schema()["$defs"][name] if name else option


@cache
def _schema() -> dict[str, Any]:
    return DualMapConfig.model_json_schema()
