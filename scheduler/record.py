"""Values that nobody changes: events, commands, requests, estimates."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """A slotted dataclass that type checkers take for frozen. At run time it is not: a frozen one sets each field by a
    call of object.__setattr__ and takes five times as long to make, several times in each request."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
