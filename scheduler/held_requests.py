"""Requests that no instance can run: held until one joins that can, or their time is over."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import KW_ONLY
from math import inf

from dualmap.scheduler.record import record
from dualmap.scheduler.request import Request


@record
class HeldWork:
    """How much is held: requests, and the tokens of their prompts."""

    requests: int = 0
    prompt_tokens: int = 0

    def __add__(self, other: "HeldWork") -> "HeldWork":
        return HeldWork(self.requests + other.requests, self.prompt_tokens + other.prompt_tokens)


@record
class Held:
    """A request that waits for an instance that can run it. number: of the attempt that it will have. since: when
    it began to wait so. held_s: for how long it had waited so before. tried: instances on which earlier attempts
    failed. legs_done: see Attempt."""

    request: Request
    number: int
    arrived_at: float
    _: KW_ONLY
    since: float
    held_s: float = 0.0
    tried: frozenset[str] = frozenset()
    legs_done: int = 0

    @property
    def client_due_s(self) -> float:
        """When its client's own time-out is over; infinite where it has none."""
        timeout_s = self.request.timeout_s
        return inf if timeout_s is None else self.arrived_at + timeout_s

    def due_s(self, cold_start_timeout_s: float) -> float:
        """When it waits no longer."""
        return min(self.client_due_s, self.since + cold_start_timeout_s - self.held_s)


class HeldRequests:
    """By request id, in the order in which they came."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._held

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    def ids(self) -> list[str]:
        return list(self._held)

    def find(self, request_id: str) -> Held | None:
        return self._held.get(request_id)

    def add(self, held: Held) -> None:
        self._held[held.request.id] = held

    def remove(self, request_id: str) -> bool:
        """Whether it was held."""
        return self._held.pop(request_id, None) is not None

    def work(self) -> HeldWork:
        """How much is held."""
        return HeldWork(len(self._held), sum(held.request.prompt_tokens for held in self))

    def in_order(self) -> list[Held]:
        """The most important first; of those, who has waited longest."""
        return sorted(self, key=lambda held: (held.request.priority, held.arrived_at))

    def overdue(self, cold_start_timeout_s: float, now: float) -> list[Held]:
        """Those that wait no longer."""
        return [held for held in self if held.due_s(cold_start_timeout_s) <= now]

    def least_important(self, request: Request) -> Held | None:
        """Who makes room for the request: of the lowest priority the last of the tenant that has most. None: the
        request itself."""
        if not self._held:
            return None
        lowest = max(held.request.priority for held in self)
        if request.priority > lowest:
            return None
        level = [held for held in self if held.request.priority == lowest]
        counts = Counter(held.request.tenant for held in level)
        if request.priority == lowest:
            counts[request.tenant] += 1
        most = max(counts.values())
        if request.priority == lowest and counts[request.tenant] == most:
            return None
        return next(held for held in reversed(level) if counts[held.request.tenant] == most)
