"""What a gateway asks of the process that started it."""

from enum import StrEnum, auto


class Wish(StrEnum):
    """Which gateways are to be replaced."""

    THIS = auto()
    ALL = auto()
