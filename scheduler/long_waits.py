"""Who has waited for very long, wherever it waits."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping

from dualmap.scheduler.attempt import Attempt, AttemptState
from dualmap.scheduler.deadline_queue import patience_ends_s

OVERDUE_SLOS = 3.0  # times its objective; where patience lasts longer, its end


class LongWaits:
    """attempts: by request id, every request in flight."""

    def __init__(self, patience_slos: float, attempts: Mapping[str, Attempt]) -> None:
        self._overdue_slos = max(OVERDUE_SLOS, patience_slos)
        self._attempts = attempts
        self._order: list[tuple[float, str]] = []  # (overdue from, request id), also of requests that wait no more

    def __len__(self) -> int:
        return len(self._order)

    def watch(self, attempt: Attempt) -> None:
        """It waits from now on; it may move."""
        entry = (self.overdue_s(attempt), attempt.request.id)
        position = bisect_left(self._order, entry)
        if self._order[position : position + 1] != [entry]:
            self._order.insert(position, entry)

    def overdue_s(self, attempt: Attempt) -> float:
        """From when on it is."""
        return patience_ends_s(attempt, self._overdue_slos)

    def overdue(self, now: float) -> Iterator[Attempt]:
        """The longest so first; meanwhile none may be added."""
        position = 0
        while position < len(self._order) and self._order[position][0] <= now:
            overdue_s, request_id = self._order[position]
            attempt = self._attempts.get(request_id)
            if attempt is not None and self._holds(attempt, overdue_s):
                yield attempt
                position += 1
            else:
                del self._order[position]

    def check(self) -> None:
        """Raise AssertionError where one that waits would not be found."""
        assert self._order == sorted(set(self._order)), "order of long waits"
        known = set(self._order)
        for request_id, attempt in self._attempts.items():
            watched = attempt.state is not AttemptState.WAITING or (self.overdue_s(attempt), request_id) in known
            assert watched, f"{request_id!r} waits, and nobody watches how long"

    def _holds(self, attempt: Attempt, overdue_s: float) -> bool:
        """It waits, and is the one that the entry is about: ids may come again."""
        return attempt.state is AttemptState.WAITING and self.overdue_s(attempt) == overdue_s
