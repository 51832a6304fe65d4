"""A core whose clock is moved by hand, with shorthand for its events.

Its instances prefill 1000 tokens a second, so that a token is a millisecond in every expectation.
"""

from itertools import count

import pytest

from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.commands import Command
from dualmap.scheduler.dual_ring import DualRing
from dualmap.scheduler.events import (
    Event,
    FailureCause,
    FirstToken,
    InstanceDraining,
    InstanceJoined,
    InstanceLost,
    MovesProposed,
    PrefillDone,
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    ServedModel,
    Tick,
)
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.role import Role
from dualmap.scheduler.snapshot import Move


class Script:
    def __init__(self, *instance_ids: str, capacity: dict[str, float] | None = None, **config: object) -> None:
        self.core = Scheduler(SchedulerConfig(**config))
        self.now = 100.0
        self._capacity = {
            "prefill_tokens_per_s": 1000.0,
            "kv_tokens": 1_000_000,
            "max_running": 8,
        } | (capacity or {})
        for instance_id in instance_ids:
            self.join(instance_id)

    def send(self, event: Event) -> list[Command]:
        return self.core.handle(event, self.now)

    def join(
        self,
        instance_id: str,
        incarnation: int = 1,
        adapters: tuple[str, ...] = (),
        models: tuple[ServedModel, ...] = (),
        role: Role = Role.BOTH,
        revision: str = "",
        **capacity: float,
    ) -> list[Command]:
        there = InstanceCapacity(**(self._capacity | capacity))
        return self.send(
            InstanceJoined(
                instance_id, incarnation, there, adapters=adapters, models=models, role=role, revision=revision
            )
        )

    def drain(self, instance_id: str, incarnation: int = 1) -> list[Command]:
        return self.send(InstanceDraining(instance_id, incarnation))

    def lose(self, instance_id: str, incarnation: int = 1) -> list[Command]:
        return self.send(InstanceLost(instance_id, incarnation, "died"))

    def arrive(
        self, request_id: str, prompt_tokens: int = 1000, blocks: tuple[int, ...] = (), **request: object
    ) -> list[Command]:
        return self.send(RequestArrived(Request(request_id, blocks, prompt_tokens, **request)))

    def first_token(self, request_id: str, attempt: int = 1) -> list[Command]:
        return self.send(FirstToken(request_id, attempt))

    def prefill_done(
        self, request_id: str, attempt: int = 1, cached_tokens: int | None = None, prompt_tokens: int | None = None
    ) -> list[Command]:
        return self.send(PrefillDone(request_id, attempt, cached_tokens=cached_tokens, prompt_tokens=prompt_tokens))

    def finish(self, request_id: str, attempt: int = 1, output_tokens: int = 256) -> list[Command]:
        return self.send(RequestFinished(request_id, attempt, output_tokens))

    def fail(
        self, request_id: str, attempt: int = 1, cause: FailureCause = FailureCause.BROKEN, tokens_sent: int = 0
    ) -> list[Command]:
        return self.send(RequestFailed(request_id, attempt, tokens_sent, cause=cause))

    def cancel(self, request_id: str) -> list[Command]:
        return self.send(RequestCancelled(request_id))

    def tick(self, after_s: float = 0.0) -> list[Command]:
        self.now += after_s
        return self.send(Tick())

    def move(self, request_id: str, source: str, target: str, version: int | None = None) -> list[Command]:
        version = self.core.version if version is None else version
        return self.send(MovesProposed((Move(request_id, source, target, gain_s=0.0),), version))

    def prompt(self, first: str, second: str | None = None, blocks: int = 2, other_than: int = 0) -> tuple[int, ...]:
        """Blocks of a prompt whose candidates are these, that of the first ring first. other_than: skips so many."""
        rings = DualRing(self.core.config.virtual_nodes)
        for view in self.core.instances.values():
            if not view.draining:
                rings.add(view.instance_id, view.capacity.ring_weight)
        for seed in count():
            chain = hash_trace_ids(range(seed * 1000, seed * 1000 + blocks))
            candidates = rings.candidates(chain[0])
            if candidates[0] == first and second in (None, candidates[-1]):
                if not other_than:
                    return chain
                other_than -= 1
        raise AssertionError("unreachable")

    def attempt(self, request_id: str) -> Attempt:
        return self.core.attempts[request_id]

    def view(self, instance_id: str) -> InstanceView:
        return self.core.instances[instance_id]

    def books(self, instance_id: str) -> tuple[int, int, int, int, int]:
        """Waiting and running requests; tokens waiting, being prefilled, and reserved in the KV cache."""
        view = self.view(instance_id)
        return (
            view.waiting_count,
            view.running_count,
            view.waiting_tokens,
            view.booked_prefill_tokens,
            view.booked_kv_tokens,
        )


EMPTY_BOOKS = (0, 0, 0, 0, 0)


@pytest.fixture
def script() -> type[Script]:
    return Script


@pytest.fixture
def empty_books() -> tuple[int, int, int, int, int]:
    return EMPTY_BOOKS
