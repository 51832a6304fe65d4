"""Which requests have waited for their first token until their time-out, found without looking at all."""

from collections.abc import Mapping
from heapq import heappop, heappush
from math import inf

from dualmap.scheduler.attempt import Attempt, AttemptState
from dualmap.scheduler.request import ChoiceReason

WITHOUT_TOKEN = (AttemptState.WAITING, AttemptState.PREFILLING)
MIN_KEPT = 1024  # entries from which those of requests that are over are looked for


class TimeOuts:
    """The client's own time-out holds until the first token, seen or assumed, or until a proxy tells where the answer
    comes from; the configured one only while the request waits in the gateway for an instance that is there, where
    nothing else would end it."""

    def __init__(self, queue_timeout_s: float, attempts: Mapping[str, Attempt]) -> None:
        """attempts: by request id, every request in flight."""
        self._queue_timeout_s = queue_timeout_s
        self._attempts = attempts
        self._heap: list[tuple[float, str]] = []  # (due, request id), also of requests that are over

    def __len__(self) -> int:
        return len(self._heap)

    def watch(self, attempt: Attempt) -> None:
        """Once it is placed; it may move."""
        due_s = self._due_s(attempt)
        if due_s == inf:
            return
        heappush(self._heap, (due_s, attempt.request.id))
        if len(self._heap) > MIN_KEPT + 2 * len(self._attempts):
            self._heap = sorted({entry for entry in self._heap if self._holds(*entry)})

    def pop_due(self, now: float) -> list[Attempt]:
        """In the order in which they were due."""
        found: dict[str, Attempt] = {}
        while self._heap and self._heap[0][0] <= now:
            due_s, request_id = heappop(self._heap)
            if self._holds(due_s, request_id):
                found[request_id] = self._attempts[request_id]
        return list(found.values())

    def check(self) -> None:
        """Raise AssertionError where a request that has a time-out would not be found."""
        known = set(self._heap)
        for request_id, attempt in self._attempts.items():
            due_s = self._due_s(attempt)
            watched = (due_s, request_id) in known or due_s == inf or attempt.state not in WITHOUT_TOKEN
            assert watched, f"the time-out of {request_id!r} is forgotten"

    def _due_s(self, attempt: Attempt) -> float:
        if attempt.reason is ChoiceReason.REDIRECTED:  # its proxy has the head of the answer
            return inf
        timeout_s = attempt.request.timeout_s
        if timeout_s is not None:
            return attempt.arrived_at + timeout_s
        if attempt.state is not AttemptState.WAITING:
            return inf
        return attempt.arrived_at + attempt.held_s + self._queue_timeout_s

    def _holds(self, due_s: float, request_id: str) -> bool:
        """Its request is in flight, without a first token, and this is its time-out: ids may come again."""
        attempt = self._attempts.get(request_id)
        return attempt is not None and attempt.state in WITHOUT_TOKEN and self._due_s(attempt) == due_s
