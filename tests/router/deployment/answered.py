"""A call of an actor that is answered at once."""

from typing import Any


class Answered:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def done(self) -> bool:
        return True

    def result(self, timeout_s: float | None = None) -> Any:
        return self._answer
