"""The time of a cluster in virtual time: one heap of what is due."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class VirtualClock:
    """now: seconds since the run began. What is due at the same time comes in the order in which it was asked for."""

    __slots__ = ("_asked", "_due", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._asked = 0

    def at(self, when: float, act: Callable[..., None], *arguments: Any) -> None:
        self._asked += 1
        heappush(self._due, (when, self._asked, act, arguments))

    def step(self) -> None:
        """Raises IndexError when nothing is due any more."""
        self.now, _, act, arguments = heappop(self._due)
        act(*arguments)
