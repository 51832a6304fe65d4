"""Fleet's states, second by second, as the scaling plan reads them."""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from math import inf

from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.fleet.scaling_sample import InstanceSample, ScalingSample
from dualmap.scheduler.held_requests import HeldWork
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role

FIRST_GUESS_S = 30.0  # what an instance takes to start, before one was seen to
UNSEEN_S = 5.0  # after a longer gap between two samples it is not known that nothing was asked for
LOST_S = 60.0  # or twice the time of a start: an instance lost for longer does not come back by itself


class ScalingHistory:
    """start_s: what the last instance took to start. lost: instances that are not counted on any more."""

    def __init__(
        self, pool_name: str, config: ScalingConfig, role: Role = Role.BOTH, longest_start_s: float = inf
    ) -> None:
        """role: of the instances to count. longest_start_s: one that starts for longer is not counted on."""
        self._pool_name = pool_name
        self._role = role
        self._longest_start_s = longest_start_s
        self._samples: deque[ScalingSample] = deque()
        self._totals = PoolTotals()
        self._busy_at: float | None = None  # when something came, ran or waited last
        self._since: dict[str, tuple[str, float]] = {}  # instance -> state, since when
        self.start_s = FIRST_GUESS_S
        self.lost: set[str] = set()
        self.keep_for(config)

    def keep_for(self, config: ScalingConfig) -> None:
        """Keep the samples of both windows from now on."""
        self._kept_s = config.down_window_s + config.up_window_s

    def samples(self) -> Sequence[ScalingSample]:
        return tuple(self._samples)

    def add(
        self, now: float, state: FleetState, ids: Collection[str], leaving: Collection[str], rolling: str | None
    ) -> None:
        """ids: the instances to count. leaving: of these, those that go. rolling: the one that is restarted, which is
        coming back."""
        members = {member.instance_id: member for member in state.members}
        found = []
        self.lost.clear()
        for instance_id in ids:
            name = _state_of(members.get(instance_id), instance_id in leaving, instance_id == rolling)
            since_s = self._note(instance_id, name, now)
            if self._is_given_up(name, since_s):
                self.lost.add(instance_id)
            else:
                load = state.loads.get(instance_id) or InstanceLoad(instance_id, 0, 0, waiting_tokens=0, kv_tokens=0)
                if self._role is Role.PREFILL:  # what waits there to be fetched asks for more that decode
                    load = replace(load, running=0, kv_tokens=0)
                member = members.get(instance_id)
                capacity = member.capacity if member else InstanceCapacity()
                found.append(InstanceSample("starting" if name == "lost" else name, capacity, load, since_s=since_s))
        self._since = {i: since for i, since in self._since.items() if i in ids}
        totals = state.totals.get(self._pool_name, PoolTotals())
        before = self._totals if totals.arrived >= self._totals.arrived else PoolTotals()  # Fleet was restarted
        self._totals = totals
        counted = (totals - before).of_role(self._role)
        held = HeldWork() if self._role is Role.PREFILL else state.held.get(self._pool_name, HeldWork())
        loads = [state.loads[i] for i, m in members.items() if m.pool == self._pool_name and i in state.loads]
        busy = counted.arrived or held.requests or any(load.running or load.waiting for load in loads)
        if busy or self._busy_at is None or now - self._samples[-1].at_s > UNSEEN_S:
            self._busy_at = now
        quiet_s = now - self._busy_at
        self._samples.append(ScalingSample(now, tuple(found), counted, held=held, quiet_s=quiet_s))
        while self._samples[0].at_s < now - self._kept_s:
            self._samples.popleft()

    def _note(self, instance_id: str, state: str, now: float) -> float:
        """How long it has been in the state."""
        known = self._since.get(instance_id)
        if known is None or known[0] != state:
            if known is not None and (known[0], state) == ("starting", "ready"):
                self.start_s = min(now - known[1], self._longest_start_s)
            known = self._since[instance_id] = (state, now)
        return now - known[1]

    def _is_given_up(self, state: str, since_s: float) -> bool:
        if state == "starting":
            return since_s > self._longest_start_s
        return state == "lost" and since_s > max(LOST_S, 2 * self.start_s)


def _state_of(member: Member | None, leaving: bool, rolling: bool) -> str:
    if leaving:
        return "draining"
    if rolling or member is None or member.state is MemberState.STARTING:
        return "starting"
    return {MemberState.READY: "ready", MemberState.DRAINING: "draining"}.get(member.state, "lost")
