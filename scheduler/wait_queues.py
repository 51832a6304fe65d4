"""What waits in the gateway for one instance, and who starts next there.

Lower priority values come first; within one, tenants take turns (fair_queue.py), and within a tenant deadlines decide
(deadline_queue.py). Who has waited for `patience_slos` times its objective behind more important ones goes before
them, but not more often than they bear.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Set
from itertools import chain

from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.deadline_queue import patience_ends_s
from dualmap.scheduler.fair_queue import FairQueue
from dualmap.scheduler.request import Request
from dualmap.scheduler.tenant_shares import NOBODY

# For each token of work that a less important request does before its turn, the more important ones do so many first:
# a flood of the unimportant has a fifth of the instance when all of it has waited too long, and never less.
SHARE_OF_IMPORTANT = 4


class WaitQueue:
    """Any attempt can be taken out, at O(log n) and a memory move."""

    def __init__(self, *, by_deadline: bool, patience_slos: float) -> None:
        """by_deadline=False: by place instead of deadlines, nobody is put aside."""
        self._by_deadline = by_deadline
        self._patience_slos = patience_slos
        self._levels: dict[int, FairQueue] = {}  # by priority, none of them empty
        self._priorities: list[int] = []  # of those, sorted
        self._count = 0
        self._owed_tokens = 0  # to the more important, for what went before them

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Attempt]:
        """As they would start if nothing changed and nobody lost patience."""
        if len(self._priorities) == 1:
            return iter(self._levels[self._priorities[0]])
        return chain.from_iterable(map(self._levels.__getitem__, self._priorities))

    def add(self, attempt: Attempt, handicap_s: float) -> None:
        """handicap_s: how much later than it came it takes its place."""
        priority = attempt.request.priority
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = FairQueue(self._by_deadline, self._patience_slos)
            insort(self._priorities, priority)
        level.add(attempt, handicap_s)
        self._count += 1

    def remove(self, attempt: Attempt, *, starts: bool = False) -> None:
        """starts: here, so that it counts as a turn of its priority and its tenant."""
        priority = attempt.request.priority
        if starts:
            if priority != self._priorities[0]:
                self._owed_tokens += SHARE_OF_IMPORTANT * attempt.work_tokens
            elif self._owed_tokens:
                self._owed_tokens = max(0, self._owed_tokens - attempt.work_tokens)
        level = self._levels[priority]
        level.remove(attempt, starts=starts)
        self._count -= 1
        if not level:
            del self._levels[priority]
            del self._priorities[bisect_left(self._priorities, priority)]

    def tokens_ahead(self, attempt: Attempt) -> int:
        """Work of those that start before it."""
        ahead = 0
        for other in self:
            if other is attempt:
                break
            ahead += other.work_tokens
        return ahead

    def work_ahead(self, request: Request) -> int:
        """About the tokens that would start before such a request if it came now."""
        ahead = 0
        for priority in self._priorities:
            if priority >= request.priority:
                if priority == request.priority:
                    ahead += self._levels[priority].work_ahead(request.tenant)
                break
            ahead += self._levels[priority].work_tokens
        return ahead

    def next(
        self,
        now: float,
        start_s: float,
        seconds_per_token: float,
        crowding: Set[str] = NOBODY,
        *,
        only_asked: bool = False,
    ) -> Attempt | None:
        """Who starts next; start_s: when the instance could begin with it. None of the tenants that are crowding.
        only_asked: the queue stays as it is."""
        if len(self._priorities) > 1 and not self._owed_tokens:
            impatient = self._impatient(now)
            if impatient is not None and impatient.request.tenant not in crowding:
                return impatient
        for priority in self._priorities:
            level = self._levels[priority]
            attempt = level.next(now, start_s, seconds_per_token, crowding, only_asked=only_asked)
            if attempt is not None:
                return attempt
        return None

    def _impatient(self, now: float) -> Attempt | None:
        """Who has waited too long behind more important ones, and longest of those."""
        oldest = [self._levels[priority].oldest_in_turn for priority in self._priorities[1:]]
        ends = [(patience_ends_s(attempt, self._patience_slos), i) for i, attempt in enumerate(oldest)]
        end_s, found = min(ends)
        return oldest[found] if now >= end_s else None

    def least_important(self, request: Request, work_tokens: int, in_time: bool) -> Attempt | None:
        """Who makes room for the request, of those that wait; None: itself. in_time: it can meet its objective."""
        if not self._priorities or request.priority > self._priorities[-1]:
            return None
        level = self._levels[self._priorities[-1]]
        if request.priority < self._priorities[-1]:
            return level.last
        return level.least_important(request.tenant, work_tokens, in_time)

    @property
    def least_priority(self) -> int:
        """That of the least important, of one or more."""
        return self._priorities[-1]

    def check(self) -> None:
        """Raise AssertionError where the levels are not those of what waits."""
        assert self._priorities == sorted(self._levels), "priorities"
        assert self._count == sum(len(level) for level in self._levels.values()), "how many wait"
        for priority, level in self._levels.items():
            assert level, f"nobody waits at priority {priority}"
            assert all(attempt.request.priority == priority for attempt in level), f"priority {priority}"
            level.check(priority)
