"""Values that nobody changes: events, commands, requests, estimates."""

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any, TypeVar, dataclass_transform, get_type_hints

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """A slotted dataclass that type checkers take for frozen. At run time it is not: a frozen one sets each field by a
    call of object.__setattr__ and takes five times as long to make, several times in each request."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


def complete(cls: type, kinds: Mapping[str, str], *, frozen: bool) -> None:
    """Give a compiled dataclass (setup.py) what it has uncompiled besides: the types of its fields, `kinds`, that it
    can be pickled, and where it is frozen, that nobody changes it."""
    cls.__annotations__.update(kinds)
    hints = get_type_hints(cls)
    for field in fields(cls):
        field.type = cls.__annotations__[field.name] = hints[field.name]
    names = [field.name for field in fields(cls)]
    given: dict[str, Any] = {"__reduce__": lambda self: (_made, (cls, {name: getattr(self, name) for name in names}))}
    if frozen:
        given |= {"__setattr__": _refuse, "__delattr__": _refuse}
    for name, function in given.items():
        setattr(cls, name, function)


def _made(cls: type[T], values: dict[str, Any]) -> T:
    return cls(**values)


def _refuse(self: object, name: str, *value: object) -> None:
    raise FrozenInstanceError(f"cannot {'assign to' if value else 'delete'} field {name!r}")
