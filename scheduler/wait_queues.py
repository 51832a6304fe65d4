"""What waits in the gateway for one instance, and who starts next there.

Lower priority values come first. Within a priority the order is arrival + a handicap for long prompts. Where somebody
in that order would miss the objective, the longest up to there is put aside (Moore and Hodgson, "An n job, one machine
sequencing algorithm for minimizing the number of late jobs", Management Science 15, 1968): served late anyway, it would
only make others late. Those put aside are served when that makes nobody late, when nobody else is left, or when they
have waited for `patience_slos` times their objective.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import chain

from scheduler.request import Attempt

LOOK_AHEAD = 64  # attempts looked at in a decision: who is further behind waits for minutes anyway

# How much more than a late one's own time must be left before it goes ahead of the punctual ones: for those who will
# come meanwhile, and the more, the more late ones wait, since then there is no slack to give away for long.
SLACK_S = 0.3
SLACK_PER_LATE_S = 0.4

_Order = tuple[int, float, str]


class WaitQueue:
    """Any attempt can be taken out, at O(log n) and a memory move."""

    def __init__(self, *, by_deadline: bool, patience_slos: float) -> None:
        """by_deadline=False: by priority and place alone, nobody is put aside."""
        self._by_deadline = by_deadline
        self._patience_slos = patience_slos
        self._punctual: list[_Order] = []
        self._late: list[_Order] = []
        self._late_tokens = 0
        self._orders: dict[str, _Order] = {}
        self._attempts: dict[str, Attempt] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        """As they would start if nothing changed; those put aside last."""
        attempts = self._attempts
        return (attempts[request_id] for _, _, request_id in chain(self._punctual, self._late))

    def add(self, attempt: Attempt, handicap_s: float) -> None:
        """handicap_s: how much later than it came it takes its place."""
        request = attempt.request
        order = (request.priority, attempt.arrived_at + handicap_s, request.id)
        insort(self._punctual, order)
        self._orders[request.id] = order
        self._attempts[request.id] = attempt

    def remove(self, attempt: Attempt) -> None:
        request_id = attempt.request.id
        order = self._orders.pop(request_id)
        del self._attempts[request_id]
        position = bisect_left(self._punctual, order)
        if position < len(self._punctual) and self._punctual[position] == order:
            del self._punctual[position]
        else:
            del self._late[bisect_left(self._late, order)]
            self._late_tokens -= attempt.work_tokens

    def tokens_ahead(self, attempt: Attempt) -> int:
        """Work of those that start before it."""
        ahead = 0
        for other in self:
            if other is attempt:
                break
            ahead += other.work_tokens
        return ahead

    def next(self, now: float, start_s: float, seconds_per_token: float) -> Attempt:
        """Who starts next, of one or more; start_s: when the instance could begin with it."""
        attempts = self._attempts
        if not self._by_deadline:
            return attempts[self._punctual[0][2]]
        if self._late:
            due_s, first_late = self._late[0][1], attempts[self._late[0][2]]
            if now >= due_s:
                return first_late
        slack_s = self._put_late_aside(start_s, seconds_per_token)
        if not self._punctual:
            return attempts[self._late[0][2]]
        if self._late:
            first_late = attempts[self._late[0][2]]
            others_s = (self._late_tokens - first_late.work_tokens) * seconds_per_token
            if first_late.work_tokens * seconds_per_token + SLACK_S + SLACK_PER_LATE_S * others_s <= slack_s:
                return first_late
        return attempts[self._punctual[0][2]]

    def _put_late_aside(self, start_s: float, seconds_per_token: float) -> float:
        """Seconds by which the punctual ones could all start later without one of them being late."""
        while True:
            slack_s, longest = self._schedule(start_s, seconds_per_token)
            if slack_s >= 0:
                return slack_s
            attempt = self._attempts[self._punctual.pop(longest)[2]]
            slo_s = attempt.deadline_s - attempt.arrived_at
            order = (0, attempt.arrived_at + self._patience_slos * slo_s, attempt.request.id)
            insort(self._late, order)
            self._late_tokens += attempt.work_tokens
            self._orders[attempt.request.id] = order

    def _schedule(self, start_s: float, seconds_per_token: float) -> tuple[float, int]:
        """The slack up to the first that would be late, and the position of the longest up to there, of those with
        the lowest priority."""
        end_s = start_s
        slack_s = float("inf")
        longest = 0
        most = (-1 << 62, -1.0)
        for position, (priority, _, request_id) in enumerate(self._punctual[:LOOK_AHEAD]):
            attempt = self._attempts[request_id]
            work_s = attempt.work_tokens * seconds_per_token
            if (priority, work_s) >= most:
                most = (priority, work_s)
                longest = position
            end_s += work_s
            slack_s = min(slack_s, attempt.deadline_s - end_s)
            if slack_s < 0:
                break
        return slack_s, longest
