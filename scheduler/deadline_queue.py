"""What one tenant has waiting for one instance at one priority, and who of them starts next.

The order is arrival + a handicap for long prompts. Where somebody in that order would miss the objective, the longest
up to there is put aside (Moore and Hodgson, "An n job, one machine sequencing algorithm for minimizing the number of
late jobs", Management Science 15, 1968): served late anyway, it would only make others late. Those put aside are served
when that makes nobody late, when nobody else is left, or when they have waited for `patience_slos` times their
objective.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import chain

from dualmap.scheduler.attempt import Attempt

LOOK_AHEAD = 64  # attempts looked at in a decision: who is further behind waits for minutes anyway

# How much more than a late one's own time must be left before it goes ahead of the punctual ones: for those who will
# come meanwhile, and the more, the more late ones wait, since then there is no slack to give away for long.
SLACK_S = 0.3
SLACK_PER_LATE_S = 0.4

_Order = tuple[float, str]


class DeadlineQueue:
    """Any attempt can be taken out, at O(log n) and a memory move. work_tokens: prefill work of all that wait."""

    def __init__(self, by_deadline: bool, patience_slos: float) -> None:
        """by_deadline=False: by place alone, nobody is put aside."""
        self.work_tokens = 0
        self._by_deadline = by_deadline
        self._patience_slos = patience_slos
        self._punctual: list[_Order] = []
        self._late: list[_Order] = []
        self._late_tokens = 0
        self._by_patience: list[_Order] = []  # all of them, by when their patience ends
        self._orders: dict[str, _Order] = {}
        self._attempts: dict[str, Attempt] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[Attempt]:
        """As they would start if nothing changed; those put aside last."""
        attempts = self._attempts
        for _, request_id in chain(self._punctual, self._late):
            yield attempts[request_id]

    @property
    def last(self) -> Attempt:
        """Who would start after all others, of one or more."""
        return self._attempts[(self._late or self._punctual)[-1][1]]

    @property
    def last_late(self) -> Attempt | None:
        """The last of those put aside."""
        return self._attempts[self._late[-1][1]] if self._late else None

    @property
    def oldest(self) -> Attempt:
        """Whose patience ends first, of one or more."""
        return self._attempts[self._by_patience[0][1]]

    def add(self, attempt: Attempt, handicap_s: float) -> None:
        """handicap_s: how much later than it came it takes its place."""
        request_id = attempt.request.id
        order = (attempt.arrived_at + handicap_s, request_id)
        insort(self._punctual, order)
        insort(self._by_patience, self._patience_order(attempt))
        self._orders[request_id] = order
        self._attempts[request_id] = attempt
        self.work_tokens += attempt.work_tokens

    def remove(self, attempt: Attempt) -> None:
        request_id = attempt.request.id
        order = self._orders.pop(request_id)
        del self._attempts[request_id]
        self.work_tokens -= attempt.work_tokens
        del self._by_patience[bisect_left(self._by_patience, self._patience_order(attempt))]
        position = bisect_left(self._punctual, order)
        if position < len(self._punctual) and self._punctual[position] == order:
            del self._punctual[position]
        else:
            del self._late[bisect_left(self._late, order)]
            self._late_tokens -= attempt.work_tokens

    def next(self, now: float, start_s: float, seconds_per_token: float) -> Attempt:
        """Who starts next, of one or more; start_s: when the instance could begin with it."""
        attempts = self._attempts
        if not self._by_deadline:
            return attempts[self._punctual[0][1]]
        patience_ends_s, request_id = self._by_patience[0]
        if now >= patience_ends_s:
            return attempts[request_id]
        slack_s = self._put_late_aside(start_s, seconds_per_token)
        if not self._punctual:
            return attempts[self._late[0][1]]
        if self._late:
            first_late = attempts[self._late[0][1]]
            others_s = (self._late_tokens - first_late.work_tokens) * seconds_per_token
            if first_late.work_tokens * seconds_per_token + SLACK_S + SLACK_PER_LATE_S * others_s <= slack_s:
                return first_late
        return attempts[self._punctual[0][1]]

    def would_be_next(self, now: float, start_s: float, seconds_per_token: float) -> Attempt:
        """What `next` would say; nobody is put aside for the question."""
        asked = DeadlineQueue(self._by_deadline, self._patience_slos)
        asked._attempts, asked._by_patience, asked._late_tokens = self._attempts, self._by_patience, self._late_tokens
        asked._punctual, asked._late, asked._orders = self._punctual.copy(), self._late.copy(), self._orders.copy()
        return asked.next(now, start_s, seconds_per_token)

    def check(self, where: str) -> None:
        """Raise AssertionError where one of the orders is not that of what waits."""
        attempts = self._attempts
        assert self._orders == {order[-1]: order for order in (*self._punctual, *self._late)}, f"places {where}"
        assert self._orders.keys() == attempts.keys(), f"who waits {where}"
        assert self._punctual == sorted(self._punctual), f"order of the punctual {where}"
        assert self._late == sorted(self._late), f"order of the late {where}"
        assert self._by_patience == sorted(map(self._patience_order, attempts.values())), f"patience {where}"
        assert self._late_tokens == sum(attempts[i].work_tokens for _, i in self._late), f"work of the late {where}"
        assert self.work_tokens == sum(attempt.work_tokens for attempt in attempts.values()), f"work {where}"
        if not self._by_deadline:
            by_arrival = sorted((attempt.arrived_at, request_id) for request_id, attempt in attempts.items())
            assert [i for _, i in by_arrival] == [a.request.id for a in self], f"first come, first served {where}"

    def _put_late_aside(self, start_s: float, seconds_per_token: float) -> float:
        """Seconds by which the punctual ones could all start later without one of them being late."""
        while True:
            slack_s, longest = self._schedule(start_s, seconds_per_token)
            if slack_s >= 0:
                return slack_s
            attempt = self._attempts[self._punctual.pop(longest)[1]]
            order = self._patience_order(attempt)
            insort(self._late, order)
            self._late_tokens += attempt.work_tokens
            self._orders[attempt.request.id] = order

    def _patience_order(self, attempt: Attempt) -> _Order:
        return patience_ends_s(attempt, self._patience_slos), attempt.request.id

    def _schedule(self, start_s: float, seconds_per_token: float) -> tuple[float, int]:
        """The slack up to the first that would be late, and the position of the longest up to there."""
        end_s = start_s
        slack_s = float("inf")
        longest = 0
        most_s = -1.0
        for position, (_, request_id) in enumerate(self._punctual[:LOOK_AHEAD]):
            attempt = self._attempts[request_id]
            work_s = attempt.work_tokens * seconds_per_token
            if work_s >= most_s:
                most_s = work_s
                longest = position
            end_s += work_s
            slack_s = min(slack_s, attempt.deadline_s - end_s)
            if slack_s < 0:
                break
        return slack_s, longest


def patience_ends_s(attempt: Attempt, patience_slos: float) -> float:
    """When it has waited for so many times its objective."""
    return attempt.arrived_at + patience_slos * (attempt.deadline_s - attempt.arrived_at)
