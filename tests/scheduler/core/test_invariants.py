"""Random events, and what must hold after each of them.

`Fleet` is a driver that believes only what the commands tell it. It knows which requests are in flight, where each one
runs and how each one ended, and compares that with the core's books after every event.
"""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.attempt import Attempt, AttemptState
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject, RejectReason
from dualmap.scheduler.config import POLICY_NAMES
from dualmap.scheduler.errors import ContractError
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
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    ServedElsewhere,
    SettingsChanged,
    Tick,
)
from dualmap.scheduler.instance.others import FRESH_S, KEPT_S
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.policies.dualmap import DualMap
from dualmap.scheduler.prefix_key import MIN_WINDOW, WINDOW_PER_INSTANCE
from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.snapshot import Move
from dualmap.scheduler.tenant_shares import SHARED_WINDOW

IDS = ("a", "b", "c", "d", "e")
ADAPTERS = {"a": ("sql", "poems"), "b": ("sql",), "c": ("poems",), "d": (), "e": ()}
MAX_OUTPUT_TOKENS = 300
TENANTS = ("", "", "flood", "flood", "quiet")
CAPACITIES = (
    InstanceCapacity(prefill_tokens_per_s=1000.0, kv_tokens=8000, max_running=3, cache_tokens=20_000),
    InstanceCapacity(prefill_tokens_per_s=4000.0, kv_tokens=20_000, max_running=8, weight=2.0, attention_tokens=3000),
    InstanceCapacity(prefill_tokens_per_s=500.0, kv_tokens=3000, max_running=1, weight=0.5),
)
# Few roots, of which the first is hot, and branches at several depths; () is a prompt without anything to reuse.
PROMPTS = [
    (),
    *(
        hash_trace_ids([root, *([7] * common), *(100 * branch + i for i in range(own))])
        for root in (0, 0, 0, 1, 2)
        for common in (0, 3)
        for branch in (1, 2, 3, 4)
        for own in (0, 1, 6)
    ),
]
TIGHT = SchedulerConfig(
    max_waiting=4, max_in_flight=30, queue_timeout_s=20.0, max_moves=4, ttft_slo_s=2.0, recompute_price_busy=2.0
)
PLAIN = replace(TIGHT, find_holders=False, escape=False, deadline_order=False, taking=False)
CONFIGS = (
    TIGHT,
    SchedulerConfig(),
    replace(TIGHT, dual_mapping=False),
    replace(TIGHT, adaptive_key=False, key_blocks=2),
    replace(TIGHT, slo_aware=False),
    replace(TIGHT, gateway_queue=False),
    replace(TIGHT, rebalancing=False, max_attempts=1),
    replace(TIGHT, find_holders=False),
    replace(TIGHT, escape=False),
    replace(TIGHT, deadline_order=False),
    replace(TIGHT, taking=False, release_window_s=1.3),
    replace(TIGHT, patience_slos=0.25, length_handicap=0.0),
    PLAIN,
    *(replace(TIGHT, policy=policy) for policy in POLICY_NAMES if policy != "dualmap"),
    replace(TIGHT, policy="least_loaded", max_attempts=2, suspect_s=0.0),
)


class Fleet:
    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.core = Scheduler(config)
        self.now = 50.0
        self.members: dict[str, int] = {}  # instance id -> incarnation
        self.draining: set[str] = set()
        self.keep_queue: set[str] = set()  # drained while no other was ready: they serve what waits for them
        self.incarnations = Counter[str]()
        self.requests: dict[str, Request] = {}  # in flight
        self.running: dict[str, tuple[int, str]] = {}  # request id -> attempt and instance
        self.last_attempt: dict[str, int] = {}
        self.ended = Counter[str]()  # request id -> how many ends it was given
        self.seen: dict[str, Attempt] = {}
        self.plans: list[MovesProposed] = []
        self.others: dict[str, InstanceLoad] = {}
        self.arrived_at: dict[str, float] = {}
        self.shed_waiting = 0
        self.timed_out = Counter[RejectReason]()
        self.taken = 0
        self.redirected: dict[str, str] = {}  # request id -> instance that the proxy chose
        self.most_members = 1
        self._arrived = 0

    # Events. An index stands for "one of those there are".

    def join(self, instance_id: str, step: int, capacity: InstanceCapacity) -> None:
        incarnation = self.incarnations[instance_id] + step
        replaced = self.members.get(instance_id)
        back = incarnation == replaced and instance_id in self.draining
        late = replaced is not None and incarnation <= replaced and not back
        if back:
            self.draining.discard(instance_id)
            self.keep_queue.discard(instance_id)
        elif not late:
            self.members[instance_id] = self.incarnations[instance_id] = incarnation
            self.draining.discard(instance_id)
            self.keep_queue.discard(instance_id)
            self.others.pop(instance_id, None)
            self.most_members = max(self.most_members, len(self.members))
        self._send(InstanceJoined(instance_id, incarnation, capacity, adapters=ADAPTERS[instance_id]), late=late)

    def drain(self, instance_id: str) -> None:
        late = instance_id not in self.members or instance_id in self.draining
        if not late:
            self.draining.add(instance_id)
            if not self.ready:
                self.keep_queue.add(instance_id)
        self._send(InstanceDraining(instance_id, self.incarnations[instance_id]), late=late)

    def lose(self, instance_id: str, step: int) -> None:
        incarnation = self.members.get(instance_id, 0) + step
        late = self.members.get(instance_id) != incarnation
        if not late:
            del self.members[instance_id]
            self.others.pop(instance_id, None)
            self.draining.discard(instance_id)
            self.keep_queue.discard(instance_id)
        self._send(InstanceLost(instance_id, incarnation, "died"), late=late)

    def arrive(
        self,
        prompt: int,
        prompt_tokens: int,
        priority: int,
        streams: bool,
        slo_s: float | None,
        tenant: str,
        timeout_s: float | None,
    ) -> None:
        self._arrived += 1
        blocks = PROMPTS[prompt % len(PROMPTS)]
        max_output_tokens = (0, 20, MAX_OUTPUT_TOKENS)[self._arrived % 3]
        request = Request(
            f"r{self._arrived}",
            blocks,
            prompt_tokens,
            max_output_tokens=max_output_tokens,
            ttft_slo_s=slo_s,
            priority=priority,
            tenant=tenant,
            streams=streams,
            block_tokens=(0, 512, 100, 0, 390)[self._arrived % 5],  # estimates of one block's length differ
            timeout_s=timeout_s,
            adapter={3: "sql", 17: "poems"}.get(self._arrived % 24, ""),
            only={5: ("a", "b"), 6: ("e",), 17: ("a", "c", "never")}.get(self._arrived % 24, ()),
            tpot_slo_s=(None, None, 0.0, 0.05, 1e-6)[self._arrived % 5],
        )
        self.requests[request.id] = request
        self.arrived_at[request.id] = self.now
        commands = self._send(RequestArrived(request))
        shed = [c.request_id for c in commands if isinstance(c, Reject) and c.reason is RejectReason.QUEUE_FULL]
        assert len(shed) <= 2
        if request.id in shed:
            self._check_shed(request)
        self.shed_waiting += len(set(shed) - {request.id})

    def change_settings(self, slo_s: float, max_waiting: int) -> None:
        """max_waiting never falls: the queues may hold more than that by then."""
        more = max(max_waiting, self.config.max_waiting)
        self.config = replace(self.config, ttft_slo_s=slo_s, max_waiting=more)
        self._send(SettingsChanged(self.config))
        assert (self.core.config.ttft_slo_s, self.core.config.max_waiting) == (slo_s, more)

    def arrive_again(self, index: int) -> None:
        if self.requests:
            with pytest.raises(ContractError):
                self.core.handle(RequestArrived(self.requests[_pick(self.requests, index)]), self.now)
            self._check_books()

    def first_token(self, index: int) -> None:
        if self.running:
            request_id = _pick(self.running, index)
            number, _ = self.running[request_id]
            self._send(FirstToken(request_id, number), late=self.core.attempts[request_id].started)

    def serve_elsewhere(self, index: int, instance_id: str) -> None:
        """On any instance, whatever the request asked for: the proxy did as it liked."""
        if self.running:
            request_id = _pick(self.running, index)
            number, before = self.running[request_id]
            late = instance_id not in self.members or instance_id == before or self.core.attempts[request_id].started
            if not late:
                del self.running[request_id]
                self.redirected[request_id] = instance_id
            self._send(ServedElsewhere(request_id, number, instance_id), late=late)

    def finish(self, index: int, output_tokens: int) -> None:
        if self.running:
            request_id = _pick(self.running, index)
            number, _ = self.running.pop(request_id)
            self._end(request_id)
            self._send(RequestFinished(request_id, number, output_tokens))

    def fail(self, index: int, cause: FailureCause, tokens_sent: int) -> None:
        if self.running:
            request_id = _pick(self.running, index)
            number, _ = self.running.pop(request_id)
            self._send(RequestFailed(request_id, number, tokens_sent, cause=cause))

    def cancel(self, index: int) -> None:
        if self.requests:
            request_id = _pick(self.requests, index)
            self.running.pop(request_id, None)
            self._end(request_id)
            assert request_id not in {c.request_id for c in self._send(RequestCancelled(request_id))}

    def tell_late(self, kind: int, index: int, off: int) -> None:
        """An event for an attempt that is over, has not begun, or never was."""
        over = [i for i in self.last_attempt if i not in self.running] or ["never"]
        request_id = _pick(over, index)
        number = self.last_attempt.get(request_id, 1)
        if self.running and off:
            request_id = _pick(self.running, index)
            number = self.running[request_id][0] + off
        events: tuple[Event, ...] = (
            FirstToken(request_id, number),
            RequestFinished(request_id, number, 5),
            RequestFailed(request_id, number, 0, cause=FailureCause.BROKEN),
            RequestCancelled(f"not-{request_id}"),
            ServedElsewhere(request_id, number, "a"),
        )
        assert self._send(events[kind % 5], late=True) == []

    def report_cache(self, instance_id: str, kind: int, prompt: int) -> None:
        blocks = PROMPTS[prompt % len(PROMPTS)]
        events = (BlocksStored(instance_id, blocks), BlocksRemoved(instance_id, blocks[1:]), CacheCleared(instance_id))
        assert self._send(events[kind % 3]) == []

    def hear_of_others(self, loads: tuple[InstanceLoad, ...], instance_id: str, prompt: int) -> None:
        self.others = {load.instance_id: load for load in loads if load.instance_id in self.members}
        self._send(GatewayLoads(loads, ((instance_id, PROMPTS[prompt % len(PROMPTS)]),)))

    def report_load(self, instance_id: str, running: int, kv_used: float, age_s: float) -> None:
        self._send(LoadReported(instance_id, running, running // 2, kv_used=kv_used, age_s=age_s))

    def plan(self) -> None:
        snapshot = self.core.snapshot(self.now)
        if snapshot is not None:
            assert self.config.rebalancing
            moves = plan_rebalance(snapshot, self.core.config)
            assert len(moves) <= self.config.max_moves
            assert len({m.request_id for m in moves}) == len(moves)
            assert all(m.gain_s >= self.config.min_move_gain_s for m in moves)
            self.plans.append(MovesProposed(tuple(moves), snapshot.version))

    def propose(self) -> None:
        if self.plans:
            self._propose(self.plans.pop(0))

    def propose_garbage(self, index: int, here: str, there: str) -> None:
        request_id = _pick(self.requests, index) if self.requests else "never"
        actual = self.seen[request_id].instance_id if request_id in self.seen else here
        moves = (Move(request_id, actual, there, gain_s=1.0), Move(request_id, here, there, gain_s=1.0))
        self._propose(MovesProposed(moves, self.core.version))

    def _propose(self, proposed: MovesProposed) -> None:
        stats = self.core.stats
        judged = stats.moves_applied + stats.moves_refused
        self._send(proposed)
        assert stats.moves_applied + stats.moves_refused == judged + len(proposed.moves)

    def tick(self, after_s: float) -> None:
        self.now += after_s
        self._send(Tick())
        assert all(
            due >= self.now for due, _, _ in self.core.books.assumed
        )  # what a tick dispatches may be due at once
        self._check_time_outs()

    def end_all(self) -> None:
        """Every request ends; then nothing may be booked any more."""
        for turn in range(10_000):
            if not self.requests:
                break
            if self.running:
                self.finish(turn, 50)
            else:
                self.cancel(turn)
        self.tick(1e6)
        assert not self.core.attempts
        assert not self.core.books.assumed
        assert not len(self.core.books.time_outs)
        assert not self.core.books.suspects
        for view in self.core.instances.values():
            assert not view.waiting_count
            assert not view.running_count
            assert (view.waiting_tokens, view.booked_prefill_tokens, view.booked_kv_tokens) == (0, 0, 0)

    # The driver's half of the contract.

    @property
    def ready(self) -> set[str]:
        return self.members.keys() - self.draining

    def _end(self, request_id: str) -> None:
        del self.requests[request_id]
        self.ended[request_id] += 1
        assert self.ended[request_id] == 1, f"{request_id} ended twice"

    def _send(self, event: Event, *, late: bool = False) -> list[Command]:
        late_before = self.core.stats.late_events
        commands = self.core.handle(event, self.now)
        assert self.core.stats.late_events == late_before + late
        for command in commands:
            self._obey(command)
        assert self.core.stats.requests_taken == self.taken
        self._check_books()
        self._check_choices()
        self._check_tables()
        return commands

    def _obey(self, command: Command) -> None:
        request_id = command.request_id
        assert request_id in self.requests, f"a command for a request that is over: {command}"
        match command:
            case Dispatch(attempt=number, instance_id=instance_id):
                assert request_id not in self.running, "dispatched twice at once"
                assert number == self.last_attempt.get(request_id, 0) + 1
                if command.reason is ChoiceReason.REDIRECTED:
                    assert self.redirected[request_id] == instance_id
                else:
                    assert number <= self.config.max_attempts
                    self._check_able(self.requests[request_id], instance_id)
                assert command.queued_s >= 0
                assert 0 <= command.cached_tokens <= self.requests[request_id].prompt_tokens
                if command.reason is ChoiceReason.TAKEN:
                    self._check_taken(request_id, instance_id)
                self.last_attempt[request_id] = number
                self.running[request_id] = (number, instance_id)
            case Abort(attempt=number, instance_id=instance_id):
                assert self.running.pop(request_id) == (number, instance_id)
            case Reject() | FailStream():
                assert request_id not in self.running, "ended while it runs"
                if isinstance(command, Reject):
                    assert 1.0 <= command.retry_after_s <= 60.0
                    if command.reason in (RejectReason.QUEUE_TIMEOUT, RejectReason.FIRST_TOKEN_TIMEOUT):
                        assert self.now >= self._due_s(self.requests[request_id])
                        self.timed_out[command.reason] += 1
                self._end(request_id)

    def _check_able(self, request: Request, instance_id: str) -> None:
        assert not request.adapter or request.adapter in ADAPTERS[instance_id]
        assert not request.only or instance_id in request.only
        assert request.adapter or request.only or instance_id in self.ready | self.keep_queue

    # What must hold.

    def _check_books(self) -> None:
        core = self.core
        core.check()
        assert core.attempts.keys() == self.requests.keys()
        assert core.instances.keys() == self.members.keys()
        at: dict[str, list[Attempt]] = {i: [] for i in self.members}
        for request_id, attempt in core.attempts.items():
            assert attempt.request is self.requests[request_id]
            at[attempt.instance_id].append(attempt)
            if attempt.state is AttemptState.WAITING:
                assert request_id not in self.running
                assert attempt.number == self.last_attempt.get(request_id, 0) + 1
            else:
                assert self.running[request_id] == (attempt.number, attempt.instance_id)
        for instance_id, view in core.instances.items():
            assert view.incarnation == self.members[instance_id]
            assert view.draining == (instance_id in self.draining)
            self._check_view(view, at[instance_id])

    def _due_s(self, request: Request) -> float:
        timeout_s = self.config.queue_timeout_s if request.timeout_s is None else request.timeout_s
        return self.arrived_at[request.id] + timeout_s

    def _check_time_outs(self) -> None:
        """Right after a tick nobody waits past the time-out, nor runs without a token past the one of its client."""
        for attempt in self.core.attempts.values():
            if attempt.state is AttemptState.WAITING or (
                attempt.state is AttemptState.PREFILLING and attempt.request.timeout_s is not None
            ):
                assert self._due_s(attempt.request) > self.now

    def _check_shed(self, request: Request) -> None:
        """One that came and was shed: nobody less important waits where it could have."""
        full = [view for view in self.core.instances.values() if view.waiting_count >= self.config.max_waiting]
        if len(self.core.attempts) >= self.config.max_in_flight:
            full = list(self.core.instances.values())
            assert all(a.request.priority <= request.priority for view in full for a in view.waiting)
        assert any(self._nobody_less_important(view, request) for view in full)

    def _nobody_less_important(self, view: InstanceView, request: Request) -> bool:
        work = Counter[str]({request.tenant: view.work_there(request)})
        for attempt in view.waiting:
            if attempt.request.priority > request.priority:
                return False
            if attempt.request.priority == request.priority:
                work[attempt.request.tenant] += attempt.work_tokens
        return work[request.tenant] == max(work.values())

    def _check_taken(self, request_id: str, instance_id: str) -> None:
        assert self.core.config.taking
        assert self.core.policy.holds_requests
        attempt = self.core.attempts[request_id]
        assert attempt.moves > 0
        assert attempt.instance_id == instance_id
        assert instance_id not in attempt.tried | self.draining | self.core.books.suspects
        self.taken += 1

    def _check_view(self, view: InstanceView, attempts: list[Attempt]) -> None:
        waiting = [a for a in attempts if a.state is AttemptState.WAITING]
        running = [a for a in attempts if a.state is not AttemptState.WAITING]
        assert {id(a) for a in view.running.values()} == {id(a) for a in running}
        assert view.waiting_tokens == sum(a.work_tokens for a in waiting)
        assert view.booked_prefill_tokens == sum(a.work_tokens for a in running if a.state is AttemptState.PREFILLING)
        assert all(
            0 <= a.work_tokens >= a.uncached_tokens == a.request.prompt_tokens - a.cached_tokens for a in running
        )
        self._check_others(view)
        assert len(view.waiting) == len(waiting)
        assert {id(a) for a in view.waiting} == {id(a) for a in waiting}
        cache_tokens = view.capacity.cache_tokens or view.capacity.kv_tokens
        assert len(view.cache) <= max(1, cache_tokens // self.config.block_tokens)
        assert view.waiting_count <= self.config.max_waiting
        assert (
            not view.draining
            or view.instance_id in self.keep_queue
            or all(a.request.adapter or a.request.only for a in waiting)
        )  # with an adapter, or a choice, that nobody else has
        if waiting:
            self._check_waits_for_a_reason(view)

    def _check_others(self, view: InstanceView) -> None:
        """As they were said, or less, where that was a while ago."""
        said = self.others.get(view.instance_id)
        load = view.others.load
        if load is None or said is None or load == said:
            assert load == said or self.now > view.others.heard_at + KEPT_S
            return
        assert self.now > view.others.heard_at + FRESH_S
        assert 0 <= load.prefilling_tokens <= said.prefilling_tokens
        aged = replace(said, prefilling_tokens=load.prefilling_tokens, head_age_s=None)
        assert load == aged

    def _check_waits_for_a_reason(self, view: InstanceView) -> None:
        """No room for another, or one of those that wait, which may be the one whose turn it is, does not fit, or only
        such wait that have to leave room for other tenants."""
        assert self.core.policy.holds_requests
        others = view.others.load or InstanceLoad(view.instance_id, 0, 0, waiting_tokens=0, kv_tokens=0)
        assert view.running or others.running or others.waiting
        prefilling_s = (view.booked_prefill_tokens + others.prefilling_tokens) * view.seconds_per_token
        foreign = view.reported.foreign
        free = view.capacity.kv_tokens - view.booked_kv_tokens - others.kv_tokens - foreign.kv_tokens
        assert (
            view.reported.stale
            or view.running_count + others.running + foreign.requests >= view.capacity.max_running * view.service.ramp
            or (prefilling_s and prefilling_s >= self._window_s(view))
            or others.head_age_s is not None
            or any(self._most_kv_tokens(view, a.request) > free for a in view.waiting)
            or all(a.request.tenant in view.room.crowding() for a in view.waiting)
            or view.instance_id in self.core.books.holding
        )

    def _window_s(self, view: InstanceView) -> float:
        tenants = {attempt.request.tenant for attempt in view.running.values()}
        return self.core.config.release_window_s * (SHARED_WINDOW if len(tenants) > 1 else 1.0)

    def _most_kv_tokens(self, view: InstanceView, request: Request) -> int:
        used = {block for attempt in view.running.values() for block in attempt.request.blocks}
        in_use = sum(block in used for block in request.blocks)
        block_tokens = request.block_tokens or self.config.block_tokens
        if request.blocks:
            block_tokens = min(block_tokens, request.prompt_tokens // len(request.blocks))
        answer_tokens = min(MAX_OUTPUT_TOKENS, request.max_output_tokens or MAX_OUTPUT_TOKENS)
        return request.prompt_tokens + answer_tokens - in_use * block_tokens

    def _check_fleet_tables(self) -> None:
        """What is kept across instances agrees with what each of them says."""
        core = self.core
        views = core.instances.values()
        ready = [view for view in views if not view.draining]
        assert core.loads.waiting == sum(len(view.waiting) for view in views)
        assert list(core.loads.coolest()) == sorted(ready, key=lambda v: (v.load_s, v.instance_id))
        mean_s = sum(view.backlog_s for view in ready) / len(ready) if ready else 0.0
        assert core.loads.mean_s == pytest.approx(mean_s, abs=1e-6)

    def _check_choices(self) -> None:
        """Of the attempts placed by this event: distinct candidates, all ready, and none tried while others are."""
        for request_id, attempt in self.core.attempts.items():
            if self.seen.get(request_id) is attempt:
                continue
            self.seen[request_id] = attempt
            if attempt.reason is ChoiceReason.REDIRECTED:
                continue
            adapter, only = attempt.request.adapter, attempt.request.only
            able = {i for i in self.ready if not adapter or adapter in ADAPTERS[i]}
            able &= set(only) or able
            assert attempt.instance_id in able
            assert set(attempt.candidates) <= able
            assert len(set(attempt.candidates)) == len(attempt.candidates) <= 2
            assert attempt.instance_id not in attempt.tried or able <= attempt.tried
            if isinstance(self.core.policy, DualMap) and self.config.dual_mapping and not attempt.tried:
                assert len(attempt.candidates) == 2 or len(able - self.core.books.suspects) < 2

    def _check_tables(self) -> None:
        core = self.core
        assert len(core.attempts) <= self.config.max_in_flight
        for attempt in core.attempts.values():
            forced = (ChoiceReason.TAKEN, ChoiceReason.REDIRECTED)
            taken = attempt.state is not AttemptState.WAITING and attempt.reason in forced
            assert attempt.moves <= self.config.max_moves_per_request + taken
        self._check_fleet_tables()
        if isinstance(core.policy, DualMap):
            assert core.policy.keys.remembered <= max(MIN_WINDOW, WINDOW_PER_INSTANCE * self.most_members)


def _pick(ids, index: int) -> str:
    ordered = sorted(ids)
    return ordered[index % len(ordered)]


INSTANCE_IDS = st.sampled_from(IDS)
INDEX = st.integers(0, 40)


class AnyEvents(RuleBasedStateMachine):
    @initialize(config=st.sampled_from(CONFIGS), members=st.integers(0, 3))
    def start(self, config: SchedulerConfig, members: int) -> None:
        self.fleet = Fleet(config)
        for instance_id, capacity in zip(IDS[:members], CAPACITIES, strict=False):
            self.fleet.join(instance_id, 1, capacity)

    @rule(instance_id=INSTANCE_IDS, step=st.sampled_from((1, 1, 1, 0, -1)), capacity=st.sampled_from(CAPACITIES))
    def join(self, instance_id, step, capacity):
        self.fleet.join(instance_id, step, capacity)

    @rule(instance_id=INSTANCE_IDS)
    def drain(self, instance_id):
        self.fleet.drain(instance_id)

    @rule(instance_id=INSTANCE_IDS, step=st.sampled_from((0, 0, 0, -1, 1)))
    def lose(self, instance_id, step):
        self.fleet.lose(instance_id, step)

    @rule(
        many=st.integers(1, 6),
        prompt=st.integers(0, len(PROMPTS) - 1),
        prompt_tokens=st.sampled_from((0, 1, 300, 1000, 4000)),
        priority=st.sampled_from((0, 0, 0, -1, 3)),
        streams=st.booleans(),
        slo_s=st.sampled_from((None, None, 0.5, 60.0)),
        tenant=st.sampled_from(TENANTS),
        timeout_s=st.sampled_from((None, None, 0.05, 2.0)),
    )
    def arrive(self, many, **request):
        for _ in range(many):
            self.fleet.arrive(**request)

    @rule(slo_s=st.sampled_from((0.5, 2.0)), max_waiting=st.sampled_from((4, 8)))
    def change_settings(self, slo_s, max_waiting):
        self.fleet.change_settings(slo_s, max_waiting)

    @rule(index=INDEX)
    def arrive_again(self, index):
        self.fleet.arrive_again(index)

    @rule(index=INDEX)
    def first_token(self, index):
        self.fleet.first_token(index)

    @rule(index=INDEX, output_tokens=st.integers(0, MAX_OUTPUT_TOKENS))
    def finish(self, index, output_tokens):
        self.fleet.finish(index, output_tokens)

    @rule(index=INDEX, cause=st.sampled_from(FailureCause), tokens_sent=st.sampled_from((0, 0, 0, 1)))
    def fail(self, index, cause, tokens_sent):
        self.fleet.fail(index, cause, tokens_sent)

    @rule(index=INDEX)
    def cancel(self, index):
        self.fleet.cancel(index)

    @rule(index=INDEX, instance_id=INSTANCE_IDS)
    def serve_elsewhere(self, index, instance_id):
        self.fleet.serve_elsewhere(index, instance_id)

    @rule(kind=st.integers(0, 4), index=INDEX, off=st.sampled_from((0, -1, 1)))
    def tell_late(self, kind, index, off):
        self.fleet.tell_late(kind, index, off)

    @rule(instance_id=INSTANCE_IDS, kind=st.integers(0, 2), prompt=st.integers(0, len(PROMPTS) - 1))
    def report_cache(self, instance_id, kind, prompt):
        self.fleet.report_cache(instance_id, kind, prompt)

    @rule(
        running=st.lists(st.integers(0, 9), max_size=5),
        tokens=st.sampled_from((0, 500, 6000)),
        instance_id=INSTANCE_IDS,
        prompt=st.integers(0, len(PROMPTS) - 1),
    )
    def hear_of_others(self, running, tokens, instance_id, prompt):
        loads = (
            InstanceLoad(
                i,
                n,
                tokens,
                waiting_tokens=tokens // 2,
                kv_tokens=n * 300,
                waiting=n // 4,
                seconds_per_token=0.0,
                saved_tokens=0,
                head_age_s=0.5 if n > 6 else None,
            )
            for i, n in zip(IDS, running, strict=False)
            if n
        )
        self.fleet.hear_of_others(tuple(loads), instance_id, prompt)

    @rule(
        instance_id=INSTANCE_IDS,
        running=st.integers(0, 9),
        kv_used=st.sampled_from((0.0, 0.3, 1.0)),
        age_s=st.sampled_from((0.0, 9.0)),
    )
    def report_load(self, instance_id, running, kv_used, age_s):
        self.fleet.report_load(instance_id, running, kv_used, age_s)

    @rule()
    def plan(self):
        self.fleet.plan()

    @rule()
    def propose(self):
        self.fleet.propose()

    @rule(index=INDEX, here=INSTANCE_IDS, there=INSTANCE_IDS)
    def propose_garbage(self, index, here, there):
        self.fleet.propose_garbage(index, here, there)

    @rule(after_s=st.sampled_from((0.0, 0.1, 0.5, 3.0, 25.0)))
    def tick(self, after_s):
        self.fleet.tick(after_s)

    @invariant()
    def no_request_is_in_two_states(self):
        if hasattr(self, "fleet"):
            assert not self.fleet.requests.keys() & self.fleet.ended.keys()

    def teardown(self):
        if hasattr(self, "fleet"):
            self.fleet.end_all()


AnyEvents.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
test_no_event_breaks_the_books = AnyEvents.TestCase


def random_event(fleet: Fleet, rng: random.Random) -> None:
    """One event, as they would come to a busy fleet whose instances come and go."""
    index = rng.randrange(1000)
    kind = rng.choices(range(13), (30, 22, 22, 4, 3, 5, 2, 3, 6, 2, 9, 2, 2))[0]
    if kind == 0:
        slo_s = rng.choice((None, None, 1.0, 60.0))
        prompt = 0 if rng.random() < 0.1 else 1 + rng.randrange(len(PROMPTS) - 1)
        fleet.arrive(
            prompt,
            rng.choice((1, 300, 1000, 4000)),
            rng.choice((0, 0, -1, 2)),
            rng.random() < 0.7,
            slo_s,
            rng.choice(TENANTS),
            rng.choice((None, None, None, 0.5, 3.0)),
        )
    elif kind == 1:
        fleet.first_token(index)
    elif kind == 2:
        fleet.finish(index, rng.randrange(MAX_OUTPUT_TOKENS))
    elif kind == 3:
        fleet.fail(index, rng.choice(list(FailureCause)), int(rng.random() < 0.2))
    elif kind == 4:
        fleet.cancel(index)
    elif kind == 5:
        fleet.tell_late(index, index // 4, rng.choice((0, -1, 1)))
    elif kind == 6:
        fleet.report_cache(rng.choice(IDS), index, rng.randrange(len(PROMPTS)))
    elif kind == 7:
        instance_id = rng.choice(IDS)
        if instance_id not in fleet.members or rng.random() < 0.3:
            fleet.join(instance_id, rng.choice((1, 1, 0)), rng.choice(CAPACITIES))
        elif rng.random() < 0.5:
            fleet.drain(instance_id)
        else:
            fleet.lose(instance_id, rng.choice((0, 0, 1)))
    elif kind == 8:
        fleet.plan()
        if rng.random() < 0.8:
            fleet.propose()
    elif kind == 9:
        fleet.propose_garbage(index, rng.choice(IDS), rng.choice(IDS))
    elif kind == 11:
        loads = (
            InstanceLoad(i, 1, rng.randrange(1000), waiting_tokens=rng.randrange(1000), kv_tokens=500)
            for i in IDS
            if rng.random() < 0.3
        )
        fleet.hear_of_others(tuple(loads), rng.choice(IDS), rng.randrange(len(PROMPTS)))
    elif kind == 12:
        fleet.report_load(rng.choice(IDS), rng.randrange(6), rng.random(), rng.choice((0.0, 0.0, 9.0)))
    else:
        fleet.tick(rng.choice((0.05, 0.1, 0.3, 1.0)))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.policy}-{CONFIGS.index(c)}")
def test_the_books_stay_right_over_a_long_run(config: SchedulerConfig):
    rng = random.Random(18)
    fleet = Fleet(config)
    for instance_id, capacity in zip(IDS[:3], CAPACITIES, strict=True):
        fleet.join(instance_id, 1, capacity)
    for _ in range(4000):
        random_event(fleet, rng)
    held = fleet.core.policy.holds_requests
    assert held is (config.policy.startswith("dualmap") and config.gateway_queue)
    assert (fleet.core.stats.moves_applied > 0) is (held and config.rebalancing)
    assert (fleet.taken > 0) is (held and fleet.core.config.taking)
    assert fleet.core.stats.retries > 0 or config.max_attempts == 1
    assert fleet.core.stats.late_events > 50
    assert (fleet.shed_waiting > 0) is (held and config.max_waiting < 10)
    assert fleet.timed_out[RejectReason.FIRST_TOKEN_TIMEOUT] > 0
    assert (fleet.timed_out[RejectReason.QUEUE_TIMEOUT] > 0) is held
    fleet.end_all()
