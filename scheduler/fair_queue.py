"""What waits for one instance at one priority, and whose turn it is: tenants get equal shares of its prefill work,
however much each has waiting.

Start-time fair queueing (Goyal, Vin, Cheng, "Start-time fair queueing", SIGCOMM 1996): each tenant has a tag, the work
it has been served; the smallest is next. Who comes back after a pause starts from a little below the smallest tag of
those that wait, so that a few prompts at once need not take turns and yet nobody saves up many, and not below its own,
so that nobody gets more by sending one request at a time. The shares are those of deficit round robin; without rounds,
the next can be asked for without being served.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Set
from heapq import heapify, heappop, heapreplace

from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.deadline_queue import DeadlineQueue
from dualmap.scheduler.tenant_shares import NOBODY

CREDIT_TOKENS = 32_768  # a few long prompts: what a tenant that has had less than its share may have at once
REMEMBERED = 64  # tags of tenants without anything waiting that are kept before they are looked through


class FairQueue:
    """work_tokens: prefill work of all that wait."""

    def __init__(self, by_deadline: bool, patience_slos: float) -> None:
        self.work_tokens = 0
        self._by_deadline = by_deadline
        self._patience_slos = patience_slos
        self._queues: dict[str, DeadlineQueue] = {}  # by tenant, none of them empty
        self._turns: list[tuple[int, str]] = []  # (tag, tenant) of those, smallest first
        self._tags: dict[str, int] = {}
        self._clock = 0  # the smallest tag when somebody last started

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Attempt]:
        """As they would start if nothing changed."""
        if len(self._queues) == 1:
            (only,) = self._queues.values()
            return iter(only)
        return self._in_turn()

    def _in_turn(self) -> Iterator[Attempt]:
        turns = [(tag, tenant, iter(self._queues[tenant])) for tag, tenant in self._turns]
        heapify(turns)
        while turns:
            tag, tenant, queue = turns[0]
            attempt = next(queue, None)
            if attempt is None:
                heappop(turns)
            else:
                heapreplace(turns, (tag + attempt.work_tokens, tenant, queue))
                yield attempt

    def add(self, attempt: Attempt, handicap_s: float) -> None:
        """handicap_s: see DeadlineQueue."""
        tenant = attempt.request.tenant
        queue = self._queues.get(tenant)
        if queue is None:
            queue = self._queues[tenant] = DeadlineQueue(self._by_deadline, self._patience_slos)
            tag = self._tags[tenant] = max(self._clock - CREDIT_TOKENS, self._tags.get(tenant, -CREDIT_TOKENS))
            insort(self._turns, (tag, tenant))
        queue.add(attempt, handicap_s)
        self.work_tokens += attempt.work_tokens

    def remove(self, attempt: Attempt, *, starts: bool) -> None:
        """starts: its tenant has had its turn."""
        tenant = attempt.request.tenant
        queue = self._queues[tenant]
        queue.remove(attempt)
        self.work_tokens -= attempt.work_tokens
        if not starts and queue:
            return
        tag = self._tags[tenant]
        if starts:
            self._clock = max(self._clock, self._turns[0][0])
        del self._turns[bisect_left(self._turns, (tag, tenant))]
        if starts:
            tag = self._tags[tenant] = tag + attempt.work_tokens
        if queue:
            insort(self._turns, (tag, tenant))
        else:
            del self._queues[tenant]
            if len(self._tags) > 2 * len(self._queues) + REMEMBERED:
                self._tags = {
                    t: tag for t, tag in self._tags.items() if tag > self._clock - CREDIT_TOKENS or t in self._queues
                }

    def next(
        self,
        now: float,
        start_s: float,
        seconds_per_token: float,
        crowding: Set[str] = NOBODY,
        *,
        only_asked: bool = False,
    ) -> Attempt | None:
        """See DeadlineQueue; None where only tenants wait that are crowding. To each tenant the instance is as slow as
        there are tenants to share it. only_asked: nobody is put aside."""
        for _, tenant in self._turns:
            if tenant not in crowding:
                queue = self._queues[tenant]
                find = queue.would_be_next if only_asked else queue.next
                return find(now, start_s, seconds_per_token * len(self._turns))
        return None

    @property
    def oldest_in_turn(self) -> Attempt:
        """Of the tenant whose turn it is, who has waited longest."""
        return self._queues[self._turns[0][1]].oldest

    def work_ahead(self, tenant: str) -> int:
        """About the tokens that start before a request of the tenant that came now: what it has waiting itself, and
        the turns of each other tenant until then."""
        queue = self._queues.get(tenant)
        own = queue.work_tokens if queue is not None else 0
        others = len(self._queues) - (queue is not None)
        first_tag = self._turns[0][0]
        tag = self._tags.get(tenant, first_tag)
        return min(self.work_tokens, own + others * max(0, tag - first_tag + own))

    def least_important(self, tenant: str, work_tokens: int, in_time: bool) -> Attempt | None:
        """Who makes room for a request of the tenant; None: itself. Of the tenant with the most waiting, the newcomer's
        work included, the last of those put aside, else who came last.

        in_time: it can meet its objective, so that one of its own tenant that cannot makes room for it.
        """
        own = self._queues.get(tenant)
        own_tokens = work_tokens + (own.work_tokens if own is not None else 0)
        most = self._heaviest()
        if most is not own and most.work_tokens > own_tokens:
            return most.last
        return own.last_late if own is not None and in_time else None

    @property
    def last(self) -> Attempt:
        """Who makes room for a more important request."""
        return self._heaviest().last

    def check(self, priority: int) -> None:
        """Raise AssertionError where turns or sums are not those of what waits."""
        where = f"at priority {priority}"
        assert self._turns == sorted((self._tags[tenant], tenant) for tenant in self._queues), f"turns {where}"
        assert self.work_tokens == sum(queue.work_tokens for queue in self._queues.values()), f"work {where}"
        for tenant, queue in self._queues.items():
            assert len(queue), f"nobody of {tenant!r} waits {where}"
            assert all(attempt.request.tenant == tenant for attempt in queue), f"tenant {tenant!r} {where}"
            queue.check(f"of {tenant!r} {where}")

    def _heaviest(self) -> DeadlineQueue:
        return max(self._queues.items(), key=lambda item: (item[1].work_tokens, item[0]))[1]
