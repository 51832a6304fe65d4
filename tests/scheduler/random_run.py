"""Random events as a driver would send them, for journals: `python -m tests.scheduler.random_run FILE` records one.

The driver believes the commands, so that most events are about attempts that are there; some come late.
"""

import random
import sys
from dataclasses import replace
from pathlib import Path

from dualmap.router.journal.writer import JournaledScheduler, JournalWriter
from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject
from dualmap.scheduler.events import (
    BlocksRemoved,
    BlocksStored,
    CacheCleared,
    Event,
    FailureCause,
    FirstToken,
    GatewayLoads,
    InstanceDraining,
    InstanceJoined,
    InstanceLoad,
    InstanceLost,
    LoadReported,
    MovesProposed,
    PrefillDone,
    PrefixDepths,
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    ServedElsewhere,
    ServedModel,
    SettingsChanged,
    StreamContinued,
    Tick,
)
from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.role import Leg, Role
from dualmap.scheduler.snapshot import Move

IDS = ("a", "b", "c", "d")
SMALL = InstanceCapacity(prefill_tokens_per_s=1000.0, kv_tokens=20_000, max_running=4, cache_tokens=40_000)
RECORDED_EVENTS = 200


class RandomRun:
    """core: whatever has `handle`; scheduler: the one behind it."""

    def __init__(self, core: Scheduler | JournaledScheduler, scheduler: Scheduler, seed: int) -> None:
        self.now = 1000.0 / 7
        self._core = core
        self._scheduler = scheduler
        self._random = random.Random(seed)
        self._arrived = 0
        self._running: dict[str, int] = {}  # request id -> attempt
        self._prefills: dict[str, int] = {}  # those of them that are prefill legs
        self._cut: dict[str, Request] = {}  # failed in mid-answer
        self._requests: dict[str, Request] = {}
        self._incarnations: dict[str, int] = {}
        for instance_id in IDS[:3]:
            self._join(instance_id)

    def run(self, events: int) -> None:
        choices = {
            self._arrive: 40,
            self._first_token: 20,
            self._finish: 20,
            self._prefill_done: 10,
            self._fail: 4,
            self._go_on: 2,
            self._cancel: 4,
            self._redirect: 3,
            self._settings: 1,
            self._late: 2,
            self._cache: 3,
            self._member: 3,
            self._loads: 3,
            self._report: 3,
            self._plan: 4,
            self._tick: 15,
        }
        for _ in range(events):
            self._random.choices(list(choices), list(choices.values()))[0]()

    def _send(self, event: Event) -> list[Command]:
        self.now += self._random.random() * 0.05
        commands = self._core.handle(event, self.now)
        for command in commands:
            match command:
                case Dispatch():
                    self._running[command.request_id] = command.attempt
                    if command.leg is Leg.PREFILL:
                        self._prefills[command.request_id] = command.attempt
                case Abort() | Reject():
                    self._running.pop(command.request_id, None)
                case FailStream():
                    self._running.pop(command.request_id, None)
                    self._cut[command.request_id] = self._requests[command.request_id]
        return commands

    def _arrive(self) -> None:
        rng = self._random
        self._arrived += 1
        blocks = hash_trace_ids([rng.choice((0, 0, 1)), *range(rng.randrange(4))])
        request = Request(
            f"r{self._arrived}",
            rng.choice((tuple(blocks), ())),
            rng.choice((1, 300, 1000, 4000)),
            max_output_tokens=rng.choice((0, 20, 300)),
            ttft_slo_s=rng.choice((None, None, 0.1, 60.0)),
            priority=rng.choice((0, 0, -1, 2)),
            tenant=rng.choice(("", "", "flood", "flood", "Ä\n\u2028")),
            streams=rng.random() < 0.7,
            block_tokens=rng.choice((0, 0, 100, 400)),
            timeout_s=rng.choice((None, None, None, 0.5, 4.0)),
            adapter=rng.choice(("", "", "", "sql", "poems")),
            only=rng.choice(((), (), (), ("a", "b"))),
            tpot_slo_s=rng.choice((None, None, 0.0, 0.01, 1e-6)),
            key_blocks=rng.choice(((), hash_trace_ids([rng.choice((0, 5)), 6, *range(rng.randrange(3))]))),
            session=rng.choice((0, 1, 2, 2**64 - 1)),
            model=rng.choice(("", "", "chat", "code")),
            length_tokens=rng.choice((0, 1000, 5000)),
            may_split=rng.random() < 0.5,
        )
        self._requests[request.id] = request
        self._send(RequestArrived(request))

    def _pick(self) -> str:
        return self._random.choice(sorted(self._running) or ["never"])

    def _first_token(self) -> None:
        request_id = self._pick()
        self._send(FirstToken(request_id, self._running.get(request_id, 1)))

    def _finish(self) -> None:
        request_id = self._pick()
        attempt = self._running.pop(request_id, 1)
        cached, prompt = self._random.choice(((None, None), (512, 1000)))
        tokens = self._random.randrange(300)
        self._send(RequestFinished(request_id, attempt, tokens, cached_tokens=cached, prompt_tokens=prompt))

    def _prefill_done(self) -> None:
        """Of one that may be over by now."""
        request_id = self._random.choice(sorted(self._prefills) or ["never"])
        number = self._prefills.pop(request_id, 1)
        if self._running.get(request_id) == number:
            del self._running[request_id]
        cached, prompt = self._random.choice(((None, None), (512, 1000)))
        self._send(PrefillDone(request_id, number, cached_tokens=cached, prompt_tokens=prompt))

    def _fail(self) -> None:
        request_id = self._pick()
        attempt = self._running.pop(request_id, 1)
        cause = self._random.choice(list(FailureCause))
        self._send(RequestFailed(request_id, attempt, self._random.choice((0, 0, 3)), cause=cause))

    def _go_on(self) -> None:
        if self._cut:
            request = self._cut.pop(self._random.choice(sorted(self._cut)))
            sent_tokens = self._random.randrange(1, 200)
            rest = replace(
                request,
                prompt_tokens=request.prompt_tokens + sent_tokens,
                goes_on_after=request.goes_on_after + 3,
                sent_tokens=request.sent_tokens + sent_tokens,
            )
            self._requests[request.id] = rest
            self._send(StreamContinued(rest, (self._random.choice(IDS),)))

    def _redirect(self) -> None:
        request_id = self._pick()
        self._send(ServedElsewhere(request_id, self._running.get(request_id, 1), self._random.choice(IDS)))

    def _settings(self) -> None:
        slo_s = self._random.choice((1.0, 2.0))
        self._send(SettingsChanged(replace(self._scheduler.config, ttft_slo_s=slo_s)))

    def _cancel(self) -> None:
        known = (*self._scheduler.attempts, *self._scheduler.held.ids())
        request_id = self._random.choice(sorted(known) or ["never"])
        self._running.pop(request_id, None)
        self._send(RequestCancelled(request_id))

    def _late(self) -> None:
        self._send(FirstToken(self._pick(), 99))

    def _cache(self) -> None:
        instance_id = self._random.choice(IDS)
        blocks = tuple(hash_trace_ids([0, 0, 1, 2]))
        events = (BlocksStored(instance_id, blocks), BlocksRemoved(instance_id, blocks[1:]), CacheCleared(instance_id))
        self._send(self._random.choice(events))

    def _join(self, instance_id: str) -> None:
        self._incarnations[instance_id] = self._incarnations.get(instance_id, 0) + 1
        rng = self._random
        capacity = replace(SMALL, weight=rng.choice((0.5, 1.0, 2.0)), attention_tokens=rng.choice((0, 8000)))
        adapters = rng.choice((("sql", "poems"), ("sql",), ()))
        models = rng.choice(((), (ServedModel("chat", 2000),), (ServedModel("chat", 8000), ServedModel("code"))))
        incarnation = self._incarnations[instance_id]
        role = rng.choice((Role.BOTH, Role.BOTH, Role.PREFILL, Role.DECODE))
        joined = InstanceJoined(instance_id, incarnation, capacity, adapters=adapters, models=models, role=role)
        self._send(joined)

    def _member(self) -> None:
        instance_id = self._random.choice(IDS)
        if instance_id not in self._scheduler.instances or self._random.random() < 0.3:
            self._join(instance_id)
        elif self._random.random() < 0.5:
            self._send(InstanceDraining(instance_id, self._incarnations[instance_id]))
        else:
            self._send(InstanceLost(instance_id, self._incarnations[instance_id], "died"))

    def _loads(self) -> None:
        rng = self._random
        loads = (
            InstanceLoad(i, 1, rng.randrange(3000), waiting_tokens=rng.randrange(2000), kv_tokens=5000)
            for i in IDS
            if rng.random() < 0.5
        )
        sent = [(rng.choice(IDS), hash_trace_ids([0, *range(rng.randrange(4))])) for _ in range(rng.randrange(3))]
        told_s = rng.choice((None, 0.0, 0.002, 0.2))
        self._send(GatewayLoads(tuple(loads), tuple(sent), rng.choice((0.0, 0.1)), told_s=told_s))
        if rng.random() < 0.1:
            deepened, spread = hash_trace_ids([0])[0], hash_trace_ids([0, 0])[-1]
            homes = ((spread, rng.choice((4, 8))),) if rng.random() < 0.5 else ()
            self._send(PrefixDepths(rng.randrange(1, 9), ((deepened, rng.randrange(2, 4)),), homes))

    def _report(self) -> None:
        rng = self._random
        age_s = rng.choice((0.0, 0.3, 9.0))
        self._send(
            LoadReported(
                rng.choice(IDS),
                rng.randrange(5),
                rng.randrange(3),
                kv_used=rng.random(),
                age_s=age_s,
                adapters=rng.choice(((), ("sql",))),
            )
        )

    def _plan(self) -> None:
        snapshot = self._scheduler.snapshot(self.now)
        moves = plan_rebalance(snapshot, self._scheduler.config) if snapshot is not None else []
        moves.append(Move("never", "a", "b", gain_s=0.1))
        self._send(MovesProposed(tuple(moves), self._scheduler.version))

    def _tick(self) -> None:
        self.now += self._random.choice((0.05, 0.1, 0.3))
        self._send(Tick())


def record(path: Path, config: SchedulerConfig, seed: int, events: int) -> JournalWriter:
    """Returns the journal, closed."""
    scheduler = Scheduler(config)
    journal = JournalWriter(path, config, about={"recorded": f"python -m tests.scheduler.random_run {path.name}"})
    try:
        RandomRun(JournaledScheduler(scheduler, journal), scheduler, seed).run(events)
    finally:
        journal.close()
    return journal


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.unlink(missing_ok=True)
    print(record(out, SchedulerConfig(ttft_slo_s=2.0), seed=1, events=RECORDED_EVENTS).state)
