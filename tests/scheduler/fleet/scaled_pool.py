"""A pool of two roles that is scaled, look by look, for tests: the fleet's states are told by hand."""

from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState, GatewayState
from dualmap.scheduler.fleet.pool_scaler import PoolScaler
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.scaler import Scaled, Wanted, WantedPool
from dualmap.scheduler.fleet.scaling_config import RoleBounds, ScalingConfig
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role

READY = MemberState.READY
GATEWAY = GatewayState("g", 9, "", age_s=0.0)
PREFILL, DECODE = Role.PREFILL, Role.DECODE
CAPACITY = InstanceCapacity(prefill_tokens_per_s=1000, max_running=10)
BOUNDS = RoleBounds(1, 4)
CONFIG = ScalingConfig(prefill=BOUNDS, decode=BOUNDS, up_window_s=5, down_window_s=20, cool_down_s=5)


class Pool:
    """A PoolScaler, and the fleet and `dualmap up` beside it. second: what is counted in each, while it looks."""

    def __init__(self, prefill: int = 2, decode: int = 2, config: ScalingConfig = CONFIG, **ours: bool) -> None:
        prefixes = {PREFILL: "sim-prefill-", DECODE: "sim-decode-"} if ours.get("ours", True) else {}
        self.config = config
        self.scaled = [
            Scaled("", prefixes.get(r, ""), config.of_role(r), automatic=True, role=r) for r in (PREFILL, DECODE)
        ]
        self.begin()
        names = {PREFILL: range(prefill), DECODE: range(decode)}
        self.members = {f"sim-{role}-{n}": role for role, numbers in names.items() for n in numbers}
        self.wanted = WantedPool(
            {r: Wanted(tuple(i for i, of in self.members.items() if of is r and prefixes), None) for r in names}
        )
        self.states: dict[str, MemberState] = {}  # of those that are not ready
        self.loads: dict[str, InstanceLoad] = {}
        self.totals = PoolTotals()
        self.now = 1000.0
        self.drained: set[str] = set()
        self.restart: dict[str, str] = {}  # a rolling one, as looks are told of it

    def begin(self) -> None:
        """Also again, as when its process has died."""
        self.scaler = PoolScaler(self.scaled)

    def ask(self) -> dict[Role, int]:
        self.wanted = self.scaler.wanted(self.wanted, {}, self.now, self.config)
        return {role: len(wanted.ids) for role, wanted in self.wanted.by_role.items()}

    def look(self, seconds: int = 1, second: PoolTotals | None = None) -> dict[Role, int]:
        """How many of each role are wanted then."""
        self.ask()
        for _ in range(seconds):
            self.now += 1.0
            self.totals += second or PoolTotals()
            members = tuple(
                Member(i, 1, Endpoint("127.0.0.1", 80), state=self.states.get(i, READY), capacity=CAPACITY, role=role)
                for i, role in self.members.items()
            )
            state = FleetState(1, True, members, gateways=(GATEWAY,), loads=self.loads, totals={"": self.totals})
            self.drained |= set(self.scaler.look(state, self.now, **self.restart))
        return self.ask()

    def fail(self, instance_id: str) -> None:
        """It could not be started."""
        del self.members[instance_id]
        self.wanted = self.scaler.wanted(self.wanted, {instance_id: "it has no place"}, self.now, self.config)

    def busy(self, role: Role, running: int) -> None:
        """So many run on each instance of the role."""
        for i in (i for i, of in self.members.items() if of is role):
            self.loads[i] = InstanceLoad(i, running, 0, waiting_tokens=0, kv_tokens=0)
