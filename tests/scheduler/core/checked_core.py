"""A core that is checked after every event, against a driver that believes only what the commands tell it: it knows
which requests are in flight, where each one runs and how each one ended."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from dualmap.scheduler import Request, Scheduler, SchedulerConfig
from dualmap.scheduler.attempt import Attempt, AttemptState
from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject, RejectReason
from dualmap.scheduler.events import (
    Event,
    InstanceLoad,
    MovesProposed,
    ServedModel,
)
from dualmap.scheduler.instance.others import FRESH_S, KEPT_S
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.policies.dualmap import DualMap
from dualmap.scheduler.prefix_key import MIN_WINDOW, WINDOW_PER_INSTANCE
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.tenant_shares import SHARED_WINDOW

IDS = ("a", "b", "c", "d", "e")
ADAPTERS = {"a": ("sql", "poems"), "b": ("sql",), "c": ("poems",), "d": (), "e": ()}
MAX_OUTPUT_TOKENS = 300
SHORT, LONG = ServedModel("chat", 2000), ServedModel("chat", 8000)
CODE = ServedModel("code")
OFFERS = ((SHORT,), (LONG,), (CODE,), (SHORT, CODE), ())


class CheckedCore:
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
        self.cut: dict[str, Request] = {}  # failed in mid-answer: another instance may go on with the answer
        self.continued = 0
        self.held = set[str]()  # that were held at any time
        self.models: dict[str, tuple[ServedModel, ...]] = {}  # of those that have told what they serve
        self._arrived = 0

    # The driver's half of the contract.

    @property
    def ready(self) -> set[str]:
        return self.members.keys() - self.draining

    def serves(self, request: Request, instance_id: str) -> bool:
        """Whether the instance can run the request, as it has told last."""
        if request.only and instance_id not in request.only:
            return False
        adapters = ADAPTERS[instance_id]
        lengths = {model.name: model.max_tokens or math.inf for model in self.models.get(instance_id, ())}
        if lengths:
            lengths |= dict.fromkeys(adapters, max(lengths.values()))
            name = request.adapter or request.model
            return request.length_tokens <= (lengths.get(name, -1) if name else max(lengths.values()))
        return not request.adapter or request.adapter in adapters

    def able(self, request: Request) -> set[str]:
        """Ready instances that can run the request."""
        return {i for i in self.ready if self.serves(request, i)}

    def _is_choosy(self, request: Request) -> bool:
        """Not every instance will do."""
        return bool(request.adapter or request.only or self.models)

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
                    request = self.requests[request_id]
                    assert number - request.goes_on_after <= self.config.max_attempts or request.searches
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
                elif self.requests[request_id].home is None:
                    self.cut[request_id] = self.requests[request_id]
                self._end(request_id)

    def _check_able(self, request: Request, instance_id: str) -> None:
        assert self.serves(request, instance_id) or request.home is not None
        assert self._is_choosy(request) or instance_id in self.ready | self.keep_queue

    # What must hold.

    def _check_books(self) -> None:
        core = self.core
        core.check()
        assert core.attempts.keys() | set(core.held.ids()) == self.requests.keys()
        assert core.instances.keys() == self.members.keys()
        at: dict[str, list[Attempt]] = {i: [] for i in self.members}
        for held in core.held:
            self._check_request(held.request)
            assert held.number == self.last_attempt.get(held.request.id, 0) + 1
            assert held.request.id not in self.running
            assert not held.request.stateful
            assert not self.able(held.request)
            self.held.add(held.request.id)
        assert len(core.held) <= self.config.max_waiting
        for request_id, attempt in core.attempts.items():
            self._check_request(attempt.request)
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

    def _check_request(self, request: Request) -> None:
        known = self.requests[request.id]
        if request is not known and request != known:  # it was too long for an instance
            assert request.length_tokens > known.length_tokens
            assert request == replace(known, length_tokens=request.length_tokens)
            self.requests[request.id] = request

    def _due_s(self, request: Request) -> float:
        timeout_s = self.config.queue_timeout_s if request.timeout_s is None else request.timeout_s
        return self.arrived_at[request.id] + timeout_s

    def _check_time_outs(self) -> None:
        """Right after a tick nobody waits past the time-out, nor runs without a token past the one of its client, but
        for those whose proxy has the head of the answer."""
        for held in self.core.held:
            assert held.due_s(self.config.cold_start_timeout_s) > self.now
        for attempt in self.core.attempts.values():
            runs = attempt.state is AttemptState.PREFILLING and attempt.reason is not ChoiceReason.REDIRECTED
            if attempt.state is AttemptState.WAITING or (runs and attempt.request.timeout_s is not None):
                held_s = attempt.held_s if attempt.request.timeout_s is None else 0.0
                assert self._due_s(attempt.request) + held_s > self.now

    def _check_shed(self, request: Request) -> None:
        """One that came and was shed: nobody less important waits where it could have."""
        full = [view for view in self.core.instances.values() if view.waiting_count >= self.config.max_waiting]
        if self.core.books.in_flight >= self.config.max_in_flight:
            assert all(held.request.priority <= request.priority for held in self.core.held)
            full = list(self.core.instances.values())
            assert all(a.request.priority <= request.priority for view in full for a in view.waiting)
        if not self.able(request) and len(self.core.held) >= self.config.max_waiting:
            assert all(held.request.priority <= request.priority for held in self.core.held)
            return
        assert not full or any(self._nobody_less_important(view, request) for view in full)

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
            not view.draining or view.instance_id in self.keep_queue or all(self._is_choosy(a.request) for a in waiting)
        )  # with an adapter, or a choice, that nobody else has
        assert all(
            view.draining or a.request.home is not None or self.serves(a.request, view.instance_id) for a in waiting
        )
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
            able = self.able(attempt.request)
            if attempt.request.home is not None:
                able = {attempt.request.home}  # also while it drains
            assert attempt.instance_id in able
            assert set(attempt.candidates) <= able
            assert len(set(attempt.candidates)) == len(attempt.candidates) <= 2
            assert attempt.instance_id not in attempt.tried or able <= attempt.tried
            if isinstance(self.core.policy, DualMap) and self.config.dual_mapping and not attempt.tried:
                assert len(attempt.candidates) == 2 or len(able - self.core.books.suspects) < 2

    def _check_tables(self) -> None:
        core = self.core
        assert core.books.in_flight <= self.config.max_in_flight
        for attempt in core.attempts.values():
            forced = (ChoiceReason.TAKEN, ChoiceReason.REDIRECTED)
            taken = attempt.state is not AttemptState.WAITING and attempt.reason in forced
            assert attempt.moves <= self.config.max_moves_per_request + taken
        self._check_fleet_tables()
        if isinstance(core.policy, DualMap):
            assert core.policy.keys.remembered <= max(MIN_WINDOW, WINDOW_PER_INSTANCE * self.most_members)
