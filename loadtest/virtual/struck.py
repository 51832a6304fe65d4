"""A cluster in virtual time under a schedule of blows, with what its gateways were told and what its clients saw.

What a gateway carries dies with it; other clients of its sessions find another gateway. A gateway's client notices a
server that hangs by its silence, and so does the instance's actor, as live ones do.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dualmap.loadtest.histories.journals import History
from dualmap.loadtest.histories.recorder import Recorder
from dualmap.loadtest.histories.rows import Row
from dualmap.loadtest.replay.run_file import Outcome
from dualmap.loadtest.traces.workload import Workload
from dualmap.loadtest.virtual.cluster import DETECT_S, TICK_S, VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings
from dualmap.loadtest.virtual.schedule import Blow, Deed, Schedule
from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import (
    Event,
    FailureCause,
    FirstToken,
    PrefillDone,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
)
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.role import Role

STALL_S = 5.0  # a server's silence that a gateway bears
UNHEALTHY_S = 8.0  # a server's silence that its actor bears
DRAIN_S = 3.0  # what a leaving instance may take for what it runs
CONNECT_AGAIN_S = 0.2  # of a client that finds no gateway
AFTER_S = 5.0  # the run goes on so long after the last answer: what is late comes
FAILED_TWICE = 5  # times as often as others come twice: these are few
LATE_EVENTS = (FirstToken, PrefillDone, RequestFinished, RequestFailed)


class StruckCluster(VirtualCluster):
    """rows: what clients saw, in the order of the ends. histories: of each gateway's process."""

    members_change = True

    def __init__(self, workload: Workload, settings: ClusterSettings, schedule: Schedule, check_every: int = 0) -> None:
        """check_every: events, between two looks at all of a core's books; 0: none."""
        self._check_every = check_every
        self._recorders: list[Recorder] = []
        super().__init__(workload, settings, wrap=self._record)
        self._schedule = schedule
        self._random = random.Random(schedule.seed)
        self._config = settings.config
        self._process = list(range(settings.gateways))  # of each gateway, the place of its recorder
        self._up = [True] * settings.gateways
        self._killed: set[int] = set()  # places of recorders
        self._owner: dict[int, tuple[int, int]] = {}  # request -> its gateway, and that one's process
        self._running: dict[str, int] = {}  # request -> attempt that its gateway listens to
        self._asked: set[int] = set()  # requests that have not ended
        self._leaving: set[str] = set()
        self._labels: dict[
            str, tuple[Role, str]
        ] = {}  # of those that are there for something else from their next start on
        self._why = (Outcome.BROKEN, "")  # the last request that was not answered
        self.rows: list[Row] = []

    def _record(self, core: Scheduler) -> Recorder:
        self._recorders.append(Recorder(core, self._check_every))
        return self._recorders[-1]

    @property
    def histories(self) -> list[History]:
        return [
            History(f"gateway process {place}", self._config, recorder.records, closed=place not in self._killed)
            for place, recorder in enumerate(self._recorders)
        ]

    def run(self, **more: Any) -> ClusterRun:
        for blow in self._schedule.blows:
            self.clock.at(blow.at_s, self._strike, blow)
        done = super().run(**more)
        until = self.clock.now + AFTER_S
        self.clock.at(until, lambda: None)
        while self.clock.now < until:
            self.clock.step()
        return done

    # The blows.

    def _strike(self, blow: Blow) -> None:
        now, target, until = self.clock.now, blow.target, self.clock.now + blow.seconds
        match blow.deed:
            case Deed.KILL:
                self._lose(target)
                self.clock.at(until, self.join, target)
            case Deed.HANG:
                self._instances.hang(target)
                for request_id, attempt in self._instances.attempts(target).items():
                    self.clock.at(now + STALL_S, self._stalled, target, request_id, attempt)
                incarnation = self._instances.incarnation(target)
                self.clock.at(now + UNHEALTHY_S, self._unhealthy, target, incarnation)
                self.clock.at(until, self._healthy, target)
            case Deed.SLOW:
                self._instances.slow(target, blow.factor)
                self.clock.at(until, self._instances.slow, target, 1.0)
            case Deed.DRAIN:
                if self._instances.incarnation(target) is not None and target not in self._leaving:
                    self._leaving.add(target)
                    self.drain(target)
                    self.clock.at(now + DRAIN_S, self._drained, target)
                self.clock.at(max(until, now + DRAIN_S + DETECT_S), self.join, target)
            case Deed.RELABEL:
                spec = self._instances.spec(target)
                self._relabel(target, blow.role, blow.revision)
                self.clock.at(until, self._relabel, target, spec.role, spec.revision)
            case Deed.MUTE:
                self._fleet_of(target).silence(target, True)
                self.clock.at(until, self._fleet_of(target).silence, target, False)
            case Deed.GATEWAY:
                self._kill_gateway(int(target), until)
            case Deed.FLEET:
                self._fleets[0].stop()
                self.clock.at(until, self._fleets[0].start_again)

    def _drained(self, instance_id: str) -> None:
        self._leaving.discard(instance_id)
        self.leave(instance_id)

    def _relabel(self, instance_id: str, role: Role, revision: str) -> None:
        """It is drained as what it is, and comes again as something else."""
        self._labels[instance_id] = role, revision
        incarnation = self._instances.incarnation(instance_id)
        if incarnation is not None and instance_id not in self._leaving:
            self._leaving.add(instance_id)
            self.drain(instance_id)
            self._relabel_when_idle(instance_id, incarnation)

    def _relabel_when_idle(self, instance_id: str, incarnation: int) -> None:
        if self._instances.incarnation(instance_id) != incarnation:  # it was killed, and has come again as that
            self._leaving.discard(instance_id)
        elif self._fleet_of(instance_id).state().is_drained(instance_id):
            self._drained(instance_id)
            self.clock.at(self.clock.now + DETECT_S, self.join, instance_id)
        else:
            self.clock.at(self.clock.now + TICK_S, self._relabel_when_idle, instance_id, incarnation)

    def join(self, instance_id: str) -> None:
        if instance_id in self._labels and self._instances.incarnation(instance_id) is None:
            self._instances.relabel(instance_id, *self._labels.pop(instance_id))
        super().join(instance_id)

    def _unhealthy(self, instance_id: str, incarnation: int) -> None:
        if self._instances.hangs(instance_id) and self._instances.incarnation(instance_id) == incarnation:
            self._report(instance_id, MemberState.LOST)

    def _healthy(self, instance_id: str) -> None:
        if self._instances.hangs(instance_id):
            self._instances.go_on(instance_id)
            self._report(instance_id, MemberState.DRAINING if instance_id in self._leaving else MemberState.READY)

    def _stalled(self, instance_id: str, request_id: str, attempt: int) -> None:
        if self._instances.hangs(instance_id) and self._running.get(request_id) == attempt:
            if self._instances.attempts(instance_id).get(request_id) != attempt:
                return
            made = self._made[request_id, attempt] = self._instances.generated(instance_id, request_id, attempt)
            self._instances.abort(instance_id, request_id)
            failed = RequestFailed(request_id, attempt, made, cause=FailureCause.STALLED)
            self._tell(self._gateway_of(int(request_id)), failed)

    def _kill_gateway(self, gateway: int, until: float) -> None:
        if not self._up[gateway]:
            return
        process = self._process[gateway]
        self._up[gateway] = False
        self._killed.add(process)
        self._fleets[0].leave(gateway)
        for index, owner in sorted(self._owner.items()):
            if owner == (gateway, process) and index in self._asked:
                self._abandon(index)
        self.clock.at(until, self._start_gateway, gateway)

    def _abandon(self, index: int) -> None:
        """Its gateway is dead: its client has what it has, and its instance finds the connection closed."""
        request_id = str(index)
        for spec in self.settings.instances:
            if self._instances.attempts(spec.instance_id).get(request_id) == self._running.get(request_id):
                self.clock.at(self.clock.now + DETECT_S, self._instances.abort, spec.instance_id, request_id)
        self._why = (Outcome.BROKEN, "its gateway died")
        self._ended(index, ok=False)

    def _start_gateway(self, gateway: int) -> None:
        core = Scheduler(self._config)
        cores = list(self.cores)
        cores[gateway] = core
        self.cores = cores
        self._process[gateway] = len(self._recorders)
        self._gateways[gateway] = self._record(core)
        self._up[gateway] = True
        self._fleets[0].enter(gateway, core, f"{gateway}-{self._process[gateway]}")

    # As in a cluster without a nemesis, but for gateways that die.

    def _send(self, index: int) -> None:
        gateway = self._gateway_of(index)
        places = [gateway, *(g for g in range(len(self._up)) if g != gateway)]
        found = next((g for g in places if self._up[g]), None)
        if found is None:
            self.clock.at(self.clock.now + CONNECT_AGAIN_S, self._send, index)
            return
        self._owner[index] = (found, self._process[found])
        self._asked.add(index)
        super()._send(index)

    def _gateway_of(self, index: int) -> int:
        owner = self._owner.get(index)
        return super()._gateway_of(index) if owner is None else owner[0]

    def _tell(self, gateway: int, event: Event) -> None:
        if not self._up[gateway]:
            return
        process = self._process[gateway]
        if isinstance(event, LATE_EVENTS):
            if self._owner.get(int(event.request_id)) != (gateway, process):
                return  # told to one that is dead
            twice = self._schedule.twice * (FAILED_TWICE if isinstance(event, RequestFailed) else 1)
            if self._random.random() < twice:
                self.clock.at(self._late_s(), self._tell_late, gateway, process, event)
            if self._random.random() < self._schedule.late:
                self.clock.at(self._late_s(), self._tell_late, gateway, process, event)
                return
        super()._tell(gateway, event)

    def _tell_late(self, gateway: int, process: int, event: Event) -> None:
        if self._up[gateway] and self._process[gateway] == process:
            super()._tell(gateway, event)

    def _late_s(self) -> float:
        return self.clock.now + self._random.random() * self._schedule.late_s

    def _apply(self, gateway: int, command: Command) -> None:
        if isinstance(command, Dispatch | Reject | FailStream) and int(command.request_id) not in self._asked:
            if isinstance(command, Dispatch):  # its client has all of it, which the core is told late
                super()._tell(gateway, RequestCancelled(command.request_id))
            return
        match command:
            case Dispatch():
                self._running[command.request_id] = command.attempt
            case Abort():
                self._running.pop(command.request_id, None)
            case Reject():
                begun = self._begun.sent(command.request_id) > 0
                self._why = (Outcome.BROKEN if begun else Outcome.SHED, command.reason)
            case FailStream():
                self._why = (Outcome.BROKEN, command.cause)
        super()._apply(gateway, command)

    def _ended(self, index: int, ok: bool) -> None:
        outcome, detail = (Outcome.OK, "") if ok else self._why
        tokens = self.workload.requests[index].output_tokens if ok else None
        self._running.pop(str(index), None)
        self._asked.discard(index)
        self.rows.append(Row(index, str(index), outcome, detail, tokens))
        super()._ended(index, ok)

    def _deliver(self, gateway: int, dispatch: Dispatch) -> None:
        if self._running.get(dispatch.request_id) != dispatch.attempt:
            return  # its gateway has died, or given it up
        super()._deliver(gateway, dispatch)
        if self._instances.hangs(dispatch.instance_id):
            self.clock.at(
                self.clock.now + STALL_S, self._stalled, dispatch.instance_id, dispatch.request_id, dispatch.attempt
            )

    def _unread(self, request_id: str, attempt: int) -> None:
        if self._running.get(request_id) == attempt:
            super()._unread(request_id, attempt)

    def _first_token(self, request_id: str, attempt: int, cached_tokens: int) -> None:
        if self._running.get(request_id) == attempt:
            super()._first_token(request_id, attempt, cached_tokens)

    def _finished(self, request_id: str, attempt: int) -> None:
        if self._running.get(request_id) == attempt:
            super()._finished(request_id, attempt)

    def _tick(self, gateway: int, number: int) -> None:
        if self._up[gateway]:
            super()._tick(gateway, number)
        else:
            self.clock.at(self._tick_s(number), self._tick, gateway, number + 1)

    def _deployments(self) -> Sequence[Sequence[int]]:
        return [range(len(self.cores))]

    def _member(self, instance_id: str, state: MemberState) -> Member | None:
        """pid: it is started here, and so its silence counts soon."""
        member = super()._member(instance_id, state)
        return None if member is None else replace(member, pid=1)
