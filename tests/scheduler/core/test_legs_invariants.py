"""Random failures of either leg: each request has one outcome, and the books are right after each event."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject
from dualmap.scheduler.events import (
    Event,
    FailureCause,
    FirstToken,
    GatewayLoads,
    InstanceDraining,
    InstanceJoined,
    InstanceLoad,
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
from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.role import Leg, Role

ROLES = {
    "p1": Role.PREFILL,
    "p2": Role.PREFILL,
    "d1": Role.DECODE,
    "d2": Role.DECODE,
    "d3": Role.DECODE,
    "b": Role.BOTH,
}
SMALL = InstanceCapacity(prefill_tokens_per_s=2000.0, kv_tokens=12_000, max_running=3)
CONFIG = SchedulerConfig(ttft_slo_s=2.0, max_waiting=6, max_in_flight=30, queue_timeout_s=15.0)
EVENTS = 3000


class LegsRun:
    """A driver that believes the commands, and instances that fail, come and go."""

    def __init__(self, config: SchedulerConfig, seed: int, mixed: bool) -> None:
        self.core = Scheduler(config)
        self.now = 10.0
        self.legs = Counter[Leg]()
        self.outcomes = Counter[str]()
        self.members: dict[str, int] = {}
        self._rng = random.Random(seed)
        self._mixed = mixed
        self._in_flight: set[str] = set()
        self._running: dict[str, Dispatch] = {}
        self._number = Counter[str]()
        self._incarnations = Counter[str]()
        self._arrived = 0
        for instance_id in ROLES:
            self._join(instance_id)

    def send(self, event: Event) -> None:
        self.now += self._rng.random() * 0.03
        for command in self.core.handle(event, self.now):
            self._obey(command)
        self.core.check()
        assert self.core.attempts.keys() | set(self.core.held.ids()) == self._in_flight

    def _obey(self, command: Command) -> None:
        match command:
            case Dispatch(request_id=request_id):
                assert request_id in self._in_flight
                assert request_id not in self._running
                assert command.attempt > self._number[request_id]
                role = self.core.instances[command.instance_id].offer.role
                assert role.takes(command.leg)
                assert command.queued_s >= -1e-9
                self._number[request_id] = command.attempt
                self._running[request_id] = command
                self.legs[command.leg] += 1
            case Abort():
                assert self._running.pop(command.request_id).instance_id == command.instance_id
            case Reject() | FailStream():
                assert command.request_id not in self._running
                self._end(command.request_id, type(command).__name__)

    def _end(self, request_id: str, outcome: str) -> None:
        self._in_flight.remove(request_id)
        self.outcomes[outcome] += 1

    def step(self) -> None:
        kinds = {
            self._arrive: 20,
            self._go_on: 40,
            self._fail: 5,
            self._cancel: 2,
            self._member: 3,
            self._others: 2,
            self._plan: 3,
            self._tick: 12,
        }
        self._rng.choices(list(kinds), list(kinds.values()))[0]()

    def _arrive(self) -> None:
        rng = self._rng
        self._arrived += 1
        blocks = tuple(hash_trace_ids([rng.choice((0, 0, 1, 2, 3)), *range(rng.randrange(6))]))
        request = Request(
            f"r{self._arrived}",
            blocks,
            len(blocks) * 512 + rng.randrange(400),
            max_output_tokens=rng.choice((0, 20, 300)),
            priority=rng.choice((0, 0, -1, 3)),
            tenant=rng.choice(("", "a", "b")),
            streams=rng.random() < 0.7,
            timeout_s=rng.choice((None, None, 1.5)),
            tpot_slo_s=rng.choice((None, 0.02)),
            session=rng.choice((0, 1, 2)),
            model=rng.choice(("chat", "code")) if self._mixed else "",
            may_split=rng.random() < 0.8,
        )
        self._in_flight.add(request.id)
        self.send(RequestArrived(request))

    def _go_on(self) -> None:
        if not self._running:
            return
        request_id = self._rng.choice(sorted(self._running))
        dispatch = self._running[request_id]
        attempt = self.core.attempts[request_id]
        if dispatch.leg is Leg.PREFILL:
            del self._running[request_id]
            self.send(PrefillDone(request_id, dispatch.attempt, cached_tokens=100, prompt_tokens=1000))
        elif not attempt.started and attempt.request.streams and self._rng.random() < 0.7:
            self.send(FirstToken(request_id, dispatch.attempt))
        else:
            del self._running[request_id]
            self._end(request_id, "finished")
            self.send(RequestFinished(request_id, dispatch.attempt, self._rng.randrange(1, 300)))

    def _fail(self) -> None:
        if self._running:
            request_id = self._rng.choice(sorted(self._running))
            dispatch = self._running.pop(request_id)
            cause = self._rng.choice(list(FailureCause))
            self.send(RequestFailed(request_id, dispatch.attempt, 0, cause=cause))

    def _cancel(self) -> None:
        if self._in_flight:
            request_id = self._rng.choice(sorted(self._in_flight))
            self._running.pop(request_id, None)
            self._end(request_id, "cancelled")
            self.send(RequestCancelled(request_id))

    def _join(self, instance_id: str, same: bool = False) -> None:
        self._incarnations[instance_id] += not same
        self.members[instance_id] = self._incarnations[instance_id]
        models = self._rng.choice(((ServedModel("chat"),), (ServedModel("chat"), ServedModel("code")), ()))
        joined = InstanceJoined(
            instance_id,
            self.members[instance_id],
            replace(SMALL, kv_tokens=self._rng.choice((6000, 12_000))) if not same else SMALL,
            models=models if self._mixed else (),
            role=ROLES[instance_id] if self._rng.random() < 0.9 else self._rng.choice(list(Role)),
        )
        self.send(joined)

    def _member(self) -> None:
        instance_id = self._rng.choice(list(ROLES))
        if instance_id not in self.members or self._rng.random() < 0.4:
            self._join(instance_id, same=instance_id in self.members and self._rng.random() < 0.5)
        elif self._rng.random() < 0.4:
            self.send(InstanceDraining(instance_id, self.members[instance_id]))
        else:
            self.send(InstanceLost(instance_id, self.members.pop(instance_id), "died"))

    def _others(self) -> None:
        loads = [
            InstanceLoad(i, 1, self._rng.randrange(1500), waiting_tokens=0, kv_tokens=1000)
            for i in ROLES
            if self._rng.random() < 0.3
        ]
        self.send(GatewayLoads(tuple(loads), (("p1", tuple(hash_trace_ids([0, 1]))),)))

    def _plan(self) -> None:
        snapshot = self.core.snapshot(self.now)
        if snapshot is not None:
            self.send(MovesProposed(tuple(plan_rebalance(snapshot, self.core.config)), snapshot.version))

    def _tick(self) -> None:
        self.now += self._rng.choice((0.05, 0.1, 0.4))
        self.send(Tick())

    def end_all(self) -> None:
        while self._in_flight:
            if self._running:
                self._go_on()
            else:
                self._cancel()
        assert not self.core.attempts
        for view in self.core.instances.values():
            assert (len(view.booked.lent), view.waiting_count, view.running_count) == (0, 0, 0)
            assert (view.waiting_tokens, view.booked_prefill_tokens, view.booked_kv_tokens) == (0, 0, 0)


@pytest.mark.parametrize("mixed", [False, True], ids=["one model", "several models"])
@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, policy="least_loaded"), replace(CONFIG, cold_start_timeout_s=4.0)],
    ids=["dualmap", "least_loaded", "holding"],
)
def test_each_request_has_one_outcome(config: SchedulerConfig, mixed: bool):
    run = LegsRun(config, 7, mixed)
    for _ in range(EVENTS):
        run.step()
    run.end_all()
    assert min(run.legs[leg] for leg in Leg) > 50
    assert run.core.stats.retries > 20
    assert run.outcomes.total() == run.core.stats.arrived
