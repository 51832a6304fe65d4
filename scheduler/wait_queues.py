"""What waits in the gateway for one instance, in the order in which it may start.

Lower priority values first. Within a priority, those that can still meet their objective come before those that cannot:
served late anyway, these would only make others late. The first are ordered by arrival + `shortness_weight` x their own
prefill time, so that a short prompt passes a long one that came a little earlier, but waits no longer than that
handicap; the second by arrival. Who has waited `patience_s` comes before everybody of its priority.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from scheduler.request import Attempt

_Order = tuple[int, float, str]


class WaitQueue:
    """Any attempt can be taken out, at O(log n) and a memory move."""

    def __init__(self) -> None:
        self._punctual: list[_Order] = []
        self._late: list[_Order] = []
        self._orders: dict[str, _Order] = {}
        self._attempts: dict[str, Attempt] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        for _, _, request_id in (*self._punctual, *self._late):
            yield self._attempts[request_id]

    def add(self, attempt: Attempt, handicap_s: float) -> None:
        """handicap_s: how much later than it arrived it takes its place."""
        request = attempt.request
        order = (request.priority, attempt.arrived_at + handicap_s, request.id)
        insort(self._punctual, order)
        self._orders[request.id] = order
        self._attempts[request.id] = attempt

    def remove(self, attempt: Attempt) -> None:
        request_id = attempt.request.id
        order = self._orders.pop(request_id)
        for queue in (self._punctual, self._late):
            position = bisect_left(queue, order)
            if position < len(queue) and queue[position] == order:
                del queue[position]
                break
        del self._attempts[request_id]

    def next(self, now: float, seconds_per_token: float, backlog_s: float, patience_s: float, margin_s: float) -> Attempt:
        """Who starts next on an instance that has `backlog_s` seconds to compute before."""
        late = self._late
        attempts = self._attempts
        if late:
            oldest = attempts[late[0][2]]
            if now - oldest.arrived_at >= patience_s:
                return oldest
        slack_s = self._drop_late(now + backlog_s, seconds_per_token)
        if not self._punctual:
            return attempts[late[0][2]]
        if late:
            oldest = attempts[late[0][2]]
            if oldest.uncached_tokens * seconds_per_token + margin_s * (sum(attempts[o[2]].uncached_tokens for o in late)-oldest.uncached_tokens)*seconds_per_token + 0.3 <= slack_s:
                return oldest
        return attempts[self._punctual[0][2]]

    def _drop_late(self, start_s: float, seconds_per_token: float) -> float:
        """Moore and Hodgson's rule: where one would be late, the longest so far makes room."""
        attempts = self._attempts
        while True:
            t = start_s
            slack_s = float("inf")
            longest = -1
            longest_s = -1.0
            for n, order in enumerate(self._punctual):
                if n >= 64:
                    self._work_s = t - start_s
                    return slack_s
                attempt = attempts[order[2]]
                work_s = attempt.uncached_tokens * seconds_per_token
                if work_s > longest_s:
                    longest, longest_s = n, work_s
                t += work_s
                slack_s = min(slack_s, attempt.deadline_s - t)
                if slack_s < 0:
                    break
            else:
                self._work_s = t - start_s
                return slack_s
            order = self._punctual.pop(longest)
            attempt = attempts[order[2]]
            order = (attempt.request.priority, attempt.arrived_at, attempt.request.id)
            insort(self._late, order)
            self._orders[attempt.request.id] = order

    def tokens_ahead(self, attempt: Attempt) -> int:
        """Uncached tokens of what is released before it."""
        ahead = 0
        for other in self:
            if other is attempt:
                break
            ahead += other.uncached_tokens
        return ahead
