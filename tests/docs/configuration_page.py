"""The page of all keys of dualmap.yaml, made from the settings classes and what their source says of each key."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.descriptions import descriptions
from dualmap.router.config.pool_settings import PoolSettings
from dualmap.router.config.reload import LIVE
from dualmap.scheduler.instance_capacity import InstanceCapacity

HEAD = """# Configuration
`dualmap up FILE.yaml` reads these keys. Every key has a default unless the table says *required*; an unknown key is
an error that names its path. Flags of the command line override the file.
[deploy/dualmap.yaml](../../deploy/dualmap.yaml) is an example with comments.

- `dualmap check FILE.yaml` says what is wrong with a file, or that the file is good, without starting anything;
  `--elsewhere` checks a file of another machine.
- `dualmap check --schema > dualmap.schema.json` writes the JSON schema, with which editors complete and check keys.
- `${NAME}` in a value is the environment variable of that name, which must be set; `$${` is a plain `${`.

Names end in their unit: `_s` is seconds, `_ms` milliseconds, `_tokens` tokens, `_blocks` blocks, `_bytes` bytes,
`_per_s` a number each second. *Reload* says whether a changed file is taken over while the deployment runs
([how](../how-to/reload.md)); a change of any other key needs a restart. `make reference` writes this page.
"""
POOLS = """
Under `pools:` each name has the sections `scheduler`, `simulate`, `vllm`, `instances`, `discovery` and `scaling` of
its own. At the top level these sections are those of the first pool.
"""
CAPACITY = """
What an instance can do, wherever a section has the key `capacity`. The defaults describe a 7B-class model on one
accelerator (arXiv 2602.06502: 0.00016 s for each prompt token).
"""
UNITS = {
    "_per_s": "tokens/s",
    "_slo_s": "seconds",
    "_s": "seconds",
    "_ms": "milliseconds",
    "_bytes": "bytes",
    "_tokens": "tokens",
    "_blocks": "blocks",
    "_slos": "objectives",
    "_s_per_request": "seconds",
    "_fraction": "share",
    "_load": "share",
    "attainment": "share",
    "sample": "share",
}
SIGNS = ((Ge, "ge", "at least"), (Gt, "gt", "above"), (Le, "le", "at most"))


class Key(NamedTuple):
    """bounds: the rules of its field, as pydantic keeps them."""

    hint: Any
    default: Any
    bounds: list[Any]


def configuration_page() -> str:
    return HEAD + "".join(_section(path, settings) for path, settings in _sections())


def missing_texts() -> list[str]:
    """Paths of keys of which the source says nothing."""
    return [f"{path}.{key}" for path, settings in _sections() for key in _keys(settings).keys() - _texts(settings)]


def _sections() -> list[tuple[str, type]]:
    """Each settings class with its path, in the order of the page."""
    return [("", DualMapConfig), *_sections_within("", DualMapConfig), ("capacity", InstanceCapacity)]


def _sections_within(path: str, settings: type) -> Iterator[tuple[str, type]]:
    for name, key in _keys(settings).items():
        inner = _settings_in(key.hint)
        if inner not in (None, InstanceCapacity, PoolSettings):
            place = f"{path}{name}{'[]' if get_origin(key.hint) is tuple else ''}"
            yield place, inner
            yield from _sections_within(f"{place}.", inner)


def _section(path: str, settings: type) -> str:
    intro = {"": POOLS, "capacity": CAPACITY}.get(path, "")
    lines = [f"\n## {f'`{path}`' if path else 'Top level'}{intro or chr(10)}"]
    lines.append("\n| key | value | default | reload | what |\n|---|---|---|---|---|\n")
    texts = _texts(settings)
    for name, key in _keys(settings).items():
        place = f"{path}.{name}" if path else name
        reload = "yes" if LIVE.match(place) or (path and LIVE.match(f"{place}.")) else ""
        cells = (f"`{name}`", _value(place, key), _default(key), reload, texts.get(name, ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(lines)


def _keys(settings: Any) -> dict[str, Key]:
    if fields := getattr(settings, "model_fields", None):
        return {name: Key(field.annotation, field.get_default(), field.metadata) for name, field in fields.items()}
    hints = get_type_hints(settings)
    return {field.name: Key(hints[field.name], field.default, []) for field in dataclasses.fields(settings)}


def _settings_in(hint: Any) -> Any:
    """The settings class that a type names, by itself, in a tuple, a mapping or beside None; None without one."""
    if isinstance(hint, type) and (hasattr(hint, "model_fields") or dataclasses.is_dataclass(hint)):
        return hint
    return next((found for argument in get_args(hint) if (found := _settings_in(argument))), None)


def _texts(settings: Any) -> dict[str, str]:
    """What the source says of each key, those of base classes included, as sentences; of a section, else what its class
    says of itself."""
    found = {name: _about(key.hint) for name, key in _keys(settings).items()}
    for one in reversed(settings.__mro__):
        if one.__module__.startswith("dualmap."):
            found |= descriptions(one)
    return {name: _sentence(text.replace("None", "null")) for name, text in found.items() if text}


def _about(hint: Any) -> str:
    inner = _settings_in(hint)
    return (inspect.getdoc(inner) or "").partition(".")[0] if hasattr(inner, "model_fields") else ""


def _sentence(text: str) -> str:
    first, _, _ = text.partition(" ")
    capital = text[:1].upper() if first.rstrip(",;").isalpha() and first.islower() else text[:1]
    return capital + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _value(place: str, key: Key) -> str:
    inner = _settings_in(key.hint)
    if inner is PoolSettings:
        return "sections by name"
    if inner is not None:
        anchor = "capacity" if inner is InstanceCapacity else re.sub(r"[^\w-]", "", place)
        return f"{'list of ' if get_origin(key.hint) is tuple else ''}[section](#{anchor})"
    rules = [
        f"{words} {getattr(rule, name)}" for rule in key.bounds for kind, name, words in SIGNS if type(rule) is kind
    ]
    return ", ".join((_kind(place, key.hint), *rules))


def _kind(place: str, hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (tuple, dict):
        return {tuple: "list of text", dict: "mapping of text"}[origin]
    if origin in (Union, UnionType) or arguments:  # beside None, or annotated
        return _kind(place, arguments[0])
    if hint in (int, float):
        return next((unit for end, unit in UNITS.items() if place.endswith(end)), "number")
    return {bool: "switch", Path: "path"}.get(hint, "text")


def _default(key: Key) -> str:
    if key.default in (PydanticUndefined, dataclasses.MISSING):
        return "*required*"
    if isinstance(key.default, BaseModel) or dataclasses.is_dataclass(key.default):
        return "its defaults"
    return f"`{key.default if isinstance(key.default, Path) else json.dumps(key.default)}`"
