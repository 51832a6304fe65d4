"""Who has waited for `patience_slos` times its objective, wherever it waits."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping

from scheduler.deadline_queue import patience_ends_s
from scheduler.request import Attempt, AttemptState


class Impatient:
    """attempts: by request id, every request in flight."""

    def __init__(self, patience_slos: float, attempts: Mapping[str, Attempt]) -> None:
        self._patience_slos = patience_slos
        self._attempts = attempts
        self._order: list[tuple[float, str]] = []  # (end of patience, request id), also of requests that have started

    def watch(self, attempt: Attempt) -> None:
        """It waits; it may move."""
        entry = (patience_ends_s(attempt, self._patience_slos), attempt.request.id)
        position = bisect_left(self._order, entry)
        if self._order[position : position + 1] != [entry]:
            self._order.insert(position, entry)

    def longest(self, now: float) -> Iterator[Attempt]:
        """Who has waited too long, and longest first."""
        position = 0
        while position < len(self._order) and self._order[position][0] <= now:
            end_s, request_id = self._order[position]
            attempt = self._attempts.get(request_id)
            if (
                attempt is None
                or attempt.state is not AttemptState.WAITING
                or end_s != patience_ends_s(attempt, self._patience_slos)
            ):
                del self._order[position]
            else:
                yield attempt
                position += 1
