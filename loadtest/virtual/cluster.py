"""A cluster in virtual time: clients, and the production core as gateways, in front of simulated instances.

Nothing here decides anything: requests arrive as the workload says, `Scheduler.handle` is called as the live gateway
calls it, engines take the time their profile gives, messages take `network_s` each way. Two runs with equal settings
are equal to the last bit.
"""

from collections.abc import Callable, Sequence
from typing import Any

from dualmap.instances.simulated.engine_types import EngineRequest
from dualmap.loadtest.traces.workload import Workload
from dualmap.loadtest.virtual.begun_answers import BegunAnswers
from dualmap.loadtest.virtual.clock import VirtualClock
from dualmap.loadtest.virtual.cluster_run import ClusterRun, RequestOutcome
from dualmap.loadtest.virtual.cluster_settings import Change, ClusterSettings
from dualmap.loadtest.virtual.fleet import VirtualFleet
from dualmap.loadtest.virtual.instances import VirtualInstances
from dualmap.loadtest.virtual.scaling import VirtualScaling
from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject, TellOthers
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import (
    Event,
    FailureCause,
    FirstToken,
    MovesProposed,
    PrefillDone,
    RequestArrived,
    RequestFailed,
    RequestFinished,
    StreamContinued,
    Tick,
)
from dualmap.scheduler.fleet.endpoint import NOWHERE
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import Sent
from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.request import Request
from dualmap.scheduler.role import DECODE, PREFILL, WHOLE, Leg, Role

TICK_S = 0.1  # as in the live gateway
DETECT_S = 0.05  # a dead server's connections break, and the gateway's client notices


class VirtualCluster:
    """One run. make_core: what stands in the place of a Scheduler. Cores may be wrapped (to write a journal) by
    `wrap`."""

    members_change = False  # by other means than the settings name

    def __init__(
        self,
        workload: Workload,
        settings: ClusterSettings,
        wrap: Callable[[Any], Any] = lambda core: core,
        make_core: Callable[[SchedulerConfig], Any] = Scheduler,
    ) -> None:
        self.workload = workload
        self.settings = settings
        self.outcomes = [RequestOutcome(r.arrival_s) for r in workload.requests]
        self.cores: Sequence[Scheduler] = [make_core(settings.config) for _ in range(settings.gateways)]
        self._gateways = [wrap(core) for core in self.cores]
        self.clock = VirtualClock()
        hears = self._first_token, self._finished, self._unread, self._tell
        self._instances = VirtualInstances(self.clock, settings, *hears)
        self._has_roles = any(spec.role is not Role.BOTH for spec in settings.instances)
        self._delivered: dict[str, Dispatch] = {}  # the last of each request
        self._left = len(workload.requests)
        self._followers: dict[int, list[int]] = {}
        self._delay = settings.network_s
        self._begun = BegunAnswers(settings.max_continuations)
        self._made: dict[tuple[str, int], int] = {}  # tokens of attempts that broke off with their instance
        self._fleets = [self._fleet(gateways) for gateways in self._deployments()]

    def run(
        self, *, give_up: Callable[[int, bool], bool] | None = None, progress: Callable[[int], None] | None = None
    ) -> ClusterRun:
        """give_up(index, ended) is told each first token and each end, when the outcome has it; True ends the run.
        progress is told how many requests have ended."""
        self._give_up = give_up
        self._stopped = False
        changes = sorted(self.settings.changes, key=lambda change: change.at_s)
        first = {change.instance_id: change.kind for change in reversed(changes) if change.kind != "slow"}
        scaling = self._scaling()
        if scaling is not None:
            scaling.begin()
        else:
            for spec in self.settings.instances:
                if first.get(spec.instance_id) != "join":
                    self.join(spec.instance_id)
        for fleet in self._fleets:
            fleet.begin(changes=self.members_change or scaling is not None or bool(first))
        for change in changes:
            self.clock.at(change.at_s, self._change, change)
        for index, request in enumerate(self.workload.requests):
            if request.after is None:
                self.clock.at(request.arrival_s, self._arrive, index)
            else:
                self._followers.setdefault(request.after, []).append(index)
        for gateway in range(len(self._gateways)):
            self.clock.at(self._tick_s(0), self._tick, gateway, 1)
            for when in self.settings.plans:
                self.clock.at(when, self._plan, gateway)
        reported = self._left
        while self._left and not self._stopped:
            self.clock.step()
            if progress is not None and reported - self._left >= 100:
                reported = self._left
                progress(len(self.outcomes) - self._left)
        self._instances.counted()
        return ClusterRun(
            self.outcomes,
            self._instances.token_gaps,
            self._instances.computed_tokens,
            self._instances.preemptions,
            sum(core.stats.moves_applied for core in self.cores),
            sum(core.stats.retries for core in self.cores),
            self.clock.now,
            self._stopped,
            scaling.instance_s if scaling else self._instances.instance_s,
            scaling.timeline if scaling else [],
            scaling.plans if scaling else [],
        )

    def kept(self) -> list[object]:
        """What the gateways' cores keep, and what Fleet does, for who counts it."""
        return [*self.cores, *(kept for fleet in self._fleets for kept in fleet.kept())]

    def _deployments(self) -> Sequence[Sequence[int]]:
        """Gateways that share a Fleet, by number."""
        return [range(len(self.cores))]

    def _fleet(self, gateways: Sequence[int]) -> VirtualFleet:
        settings = self.settings
        return VirtualFleet(
            self.clock,
            {number: self.cores[number] for number in gateways},
            self._tell,
            config=settings.config,
            interval_s=settings.digest_s,
            answer_s=settings.network_s if settings.digest_delay_s is None else settings.digest_delay_s,
        )

    def _fleet_of(self, instance_id: str) -> VirtualFleet:
        return self._fleets[0]

    def _fleet_at(self, gateway: int) -> VirtualFleet:
        return self._fleets[0]

    def _scaling(self) -> VirtualScaling | None:
        return None if self.settings.scaling is None else VirtualScaling(self, self._fleets[0], self.settings)

    # The clients.

    def _arrive(self, index: int) -> None:
        self.outcomes[index].arrived_s = self.clock.now
        self._send(index)

    def _send(self, index: int) -> None:
        request = self.workload.requests[index]
        told = request.told or Request(
            str(index),
            self._prompt_blocks(index),
            request.prompt_tokens,
            max_output_tokens=request.output_tokens if self.settings.told_output == "exact" else 0,
            block_tokens=self.workload.block_tokens,
            session=request.session + 1 if self.settings.named_sessions else 0,
            may_split=self._has_roles,
        )
        self._begun.arrive(told)
        self._tell(self._gateway_of(index), RequestArrived(told))

    def _prompt_blocks(self, index: int) -> tuple[int, ...]:
        """Full blocks only: a part of one is never hit."""
        request = self.workload.requests[index]
        if request.told:
            return request.told.blocks
        return request.blocks[: request.prompt_tokens // self.workload.block_tokens]

    def _gateway_of(self, index: int) -> int:
        return self.workload.requests[index].session % len(self._gateways)

    def _ended(self, index: int, ok: bool) -> None:
        outcome = self.outcomes[index]
        outcome.ok = ok
        self._begun.end(str(index))
        self._delivered.pop(str(index), None)
        self._left -= 1
        if self._give_up is not None and self._give_up(index, True):
            self._stopped = True
        for follower in self._followers.pop(index, ()):
            self.clock.at(self.clock.now + self.workload.requests[follower].think_s, self._arrive, follower)

    # The gateways.

    def _tell(self, gateway: int, event: Event) -> None:
        for command in self._gateways[gateway].handle(event, self.clock.now):
            self._apply(gateway, command)

    def _apply(self, gateway: int, command: Command) -> None:
        match command:
            case Dispatch():
                self.outcomes[int(command.request_id)].sent_s = self.clock.now
                index = int(command.request_id)
                self._begun.dispatch(command.request_id, command.attempt, command.instance_id)
                told = self.workload.requests[index].told
                sent = Sent(command.instance_id, self._prompt_blocks(index), told.key_blocks if told else ())
                self._fleet_at(gateway).note_sent(gateway, sent)
                self.clock.at(self._reaches_engine_s(command.instance_id), self._deliver, gateway, command)
            case Reject():
                self._ended(int(command.request_id), ok=False)
            case FailStream():
                self._go_on(gateway, command.request_id)
            case Abort():
                reaches_s = self._reaches_engine_s(command.instance_id)
                self.clock.at(reaches_s, self._instances.abort, command.instance_id, command.request_id)
            case TellOthers():
                self._fleet_at(gateway).ask(gateway)

    def _go_on(self, gateway: int, request_id: str) -> None:
        """The rest of the answer comes from elsewhere, or it ends here."""
        instance_id, attempt = self._begun.place(request_id)
        made = self._made.pop((request_id, attempt), 0) or self._instances.generated(instance_id, request_id, attempt)
        output_tokens = self.workload.requests[int(request_id)].output_tokens
        has_all = self._begun.sent(request_id) + made >= output_tokens  # only the answer's end was missing
        rest = None if has_all else self._begun.rest(request_id, made, output_tokens)
        if rest is None:
            self._ended(int(request_id), ok=has_all)
        else:
            self._tell(gateway, StreamContinued(*rest))

    def _reaches_engine_s(self, instance_id: str) -> float:
        """When what is sent to it is in its engine."""
        return self.clock.now + self._delay + self._instances.api_s(instance_id)

    def _tick_s(self, number: int) -> float:
        ticks = self.settings.ticks
        if number < len(ticks):
            return ticks[number]
        return self.clock.now + TICK_S if number else 0.0

    def _tick(self, gateway: int, number: int) -> None:
        """number: of those that this gateway has had, this one included."""
        self._tell(gateway, Tick())
        if not self.settings.plans:
            self._plan(gateway)
        self.clock.at(self._tick_s(number), self._tick, gateway, number + 1)

    def _plan(self, gateway: int) -> None:
        snapshot = self.cores[gateway].snapshot(self.clock.now)
        if snapshot is not None:
            moves = tuple(plan_rebalance(snapshot, self.cores[gateway].config))
            if moves:
                self._tell(gateway, MovesProposed(moves, snapshot.version))

    # Between gateways and instances.

    def _deliver(self, gateway: int, dispatch: Dispatch) -> None:
        index = int(dispatch.request_id)
        request, outcome = self.workload.requests[index], self.outcomes[index]
        outcome.attempts = dispatch.attempt
        blocks = request.engine_blocks
        if blocks is None:
            blocks = self._prompt_blocks(index) + request.answer_blocks
        sent = self._begun.sent(dispatch.request_id)
        before, leg = self._delivered.get(dispatch.request_id), dispatch.leg
        self._delivered[dispatch.request_id] = dispatch
        asked = EngineRequest(
            dispatch.request_id,
            blocks,
            request.prompt_tokens + sent,
            1 if leg is PREFILL else request.output_tokens - sent,
            loads=leg is DECODE,
            lends=leg is PREFILL,
        )
        source = before.instance_id if leg is DECODE and before else ""
        if self._instances.add(dispatch.instance_id, asked, dispatch.attempt, source):
            outcome.instance_id = dispatch.instance_id
        else:
            failed = RequestFailed(dispatch.request_id, dispatch.attempt, 0, cause=FailureCause.CONNECT)
            self.clock.at(self.clock.now + self._delay, self._tell, gateway, failed)

    def _leg(self, request_id: str, attempt: int) -> Leg:
        dispatch = self._delivered.get(request_id)
        return dispatch.leg if dispatch and dispatch.attempt == attempt else WHOLE

    def _unread(self, request_id: str, attempt: int) -> None:
        """The prompt that another instance has computed could not be read."""
        failed = RequestFailed(request_id, attempt, 0, cause=FailureCause.ERROR)
        self._tell(self._gateway_of(int(request_id)), failed)

    def _first_token(self, request_id: str, attempt: int, cached_tokens: int) -> None:
        index = int(request_id)
        outcome = self.outcomes[index]
        leg = self._leg(request_id, attempt)
        if leg is not DECODE:
            outcome.cached_tokens = cached_tokens
        if leg is PREFILL:
            return
        if not self._begun.sent(request_id):
            outcome.first_token_s = self.clock.now
            if self._give_up is not None and self._give_up(index, False):
                self._stopped = True
        self._tell(self._gateway_of(index), FirstToken(request_id, attempt))

    def _finished(self, request_id: str, attempt: int) -> None:
        index = int(request_id)
        request, outcome = self.workload.requests[index], self.outcomes[index]
        usage = {
            "cached_tokens": outcome.cached_tokens,
            "prompt_tokens": request.prompt_tokens + self._begun.sent(request_id),
        }
        if self._leg(request_id, attempt) is PREFILL:
            self._tell(self._gateway_of(index), PrefillDone(request_id, attempt, **usage))
            return
        outcome.finished_s = self.clock.now
        event = RequestFinished(request_id, attempt, request.output_tokens, **usage)
        self._tell(self._gateway_of(index), event)
        self._ended(index, ok=True)

    # What the script changes.

    def _change(self, change: Change) -> None:
        match change.kind:
            case "join":
                self.join(change.instance_id)
            case "lose":
                self._lose(change.instance_id)
            case "leave":
                self.drain(change.instance_id)
                self._leave_when_idle(change.instance_id)
            case "slow":
                self._instances.slow(change.instance_id, change.factor)
            case _:
                raise ValueError(f"kind of change must be join, lose, leave or slow, not {change.kind!r}")

    def join(self, instance_id: str) -> None:
        """It starts; gateways hear of it from Fleet."""
        if self._instances.start(instance_id) is not None:
            self._report(instance_id, MemberState.READY)

    def drain(self, instance_id: str) -> None:
        """It is to get no new request."""
        self._report(instance_id, MemberState.DRAINING)

    def leave(self, instance_id: str) -> None:
        """It stops for good: what still runs there fails."""
        self._break_off(instance_id)
        self._fleet_of(instance_id).forget(instance_id)

    def _leave_when_idle(self, instance_id: str) -> None:
        if self._fleet_of(instance_id).state().is_drained(instance_id):
            self.leave(instance_id)
        else:
            self.clock.at(self.clock.now + TICK_S, self._leave_when_idle, instance_id)

    def _lose(self, instance_id: str) -> None:
        lost = self._member(instance_id, MemberState.LOST)
        self._break_off(instance_id)
        if lost is not None:
            self.clock.at(self.clock.now + DETECT_S, self._fleet_of(instance_id).report, lost)

    def _break_off(self, instance_id: str) -> None:
        """It stops, if it is there."""
        if self._instances.incarnation(instance_id) is None:
            return
        noticed_s = self.clock.now + DETECT_S
        for request_id, attempt in self._instances.attempts(instance_id).items():
            made = self._made[request_id, attempt] = self._instances.generated(instance_id, request_id, attempt)
            failed = RequestFailed(request_id, attempt, made, cause=FailureCause.BROKEN)
            self.clock.at(noticed_s, self._tell, self._gateway_of(int(request_id)), failed)
        self._instances.stop(instance_id)

    def _report(self, instance_id: str, state: MemberState) -> None:
        member = self._member(instance_id, state)
        if member is not None:
            self._fleet_of(instance_id).report(member)

    def _member(self, instance_id: str, state: MemberState) -> Member | None:
        """None if it is not there."""
        incarnation = self._instances.incarnation(instance_id)
        if incarnation is None:
            return None
        spec = self._instances.spec(instance_id)
        capacity = self._instances.capacity(instance_id)
        return Member(
            instance_id,
            incarnation,
            NOWHERE,
            state=state,
            capacity=capacity,
            role=spec.role,
            revision=spec.revision,
        )
