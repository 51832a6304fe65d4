"""What waits in the gateway for one instance: lower priority value first, then by arrival."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from scheduler.request import Attempt


class WaitQueue:
    """Ordered by (priority, arrival, request id). Any attempt can be taken out, at O(log n) and a memory move."""

    def __init__(self) -> None:
        self._order: list[tuple[int, float, str]] = []
        self._attempts: dict[str, Attempt] = {}

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Attempt]:
        """In the order they would be released."""
        return (self._attempts[request_id] for _, _, request_id in self._order)

    def add(self, attempt: Attempt) -> None:
        insort(self._order, _place(attempt))
        self._attempts[attempt.request.id] = attempt

    def remove(self, attempt: Attempt) -> None:
        del self._order[bisect_left(self._order, _place(attempt))]
        del self._attempts[attempt.request.id]

    def first(self) -> Attempt:
        return self._attempts[self._order[0][2]]

    def tokens_ahead(self, attempt: Attempt) -> int:
        """Uncached tokens of what is released before it."""
        position = bisect_left(self._order, _place(attempt))
        return sum(self._attempts[request_id].uncached_tokens for _, _, request_id in self._order[:position])


def _place(attempt: Attempt) -> tuple[int, float, str]:
    return (attempt.request.priority, attempt.arrived_at, attempt.request.id)
