"""The pools as `dualmap up` keeps them: it asks each pool's Autoscaler which instances there should be, and starts and
stops them accordingly."""

from collections.abc import Callable, Collection
from contextlib import suppress

from dualmap.instances.server.vllm_command import NoVllmError
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.instance_specs import is_scaled, scaled_prefix, scaled_spec
from dualmap.router.deployment.instances import Instances
from dualmap.router.reach.reach import Call, CallError, Owned
from dualmap.scheduler.fleet.scaler import Wanted, WantedPool
from dualmap.scheduler.role import Role

ANSWER_TIMEOUT_S = 2.0  # of an Autoscaler


class ScaledPools:
    """instances: all there are, those included that are not scaled.
    cluster_gpus: of all machines. say: is told what starts."""

    def __init__(
        self, config: DualMapConfig, instances: Instances, cluster_gpus: float, say: Callable[[str], None]
    ) -> None:
        self.config = config
        self._instances = instances
        self._cluster_gpus = cluster_gpus
        self._say = say
        self._fixed: set[str] = set()  # instances that are not scaled
        self._autoscalers: dict[str, Owned] = {}  # by pool
        self._wanted: dict[str, WantedPool] = {}  # the last answers
        self._told: dict[str, dict[str, int]] = {}  # how many instances of each role the Autoscalers are to be told
        self._telling: dict[str, Call] = {}  # the calls that tell it

    def add(self, pool_name: str, ids: Collection[str], autoscaler: Owned) -> None:
        """ids: of the instances that were started here at first."""
        pool = self.config.all_pools()[pool_name]
        wanted: dict[Role, Wanted] = {}
        self._fixed |= set(ids)
        for role in pool.scaled_roles:
            prefix = scaled_prefix(pool_name, pool, role)
            scaled_ids = {i for i in ids if is_scaled(i, prefix)}
            self._fixed -= scaled_ids
            told = len(scaled_ids) if pool.scaling is None and scaled_ids else None
            wanted[role] = Wanted(tuple(sorted(scaled_ids)), told)
        self._wanted[pool_name] = WantedPool(wanted)
        self._autoscalers[pool_name] = autoscaler

    def take_over(self, config: DualMapConfig) -> None:
        """A configuration with other bounds, or other numbers of instances where there are no bounds."""
        for pool_name, pool in config.all_pools().items():
            before = self.config.all_pools()[pool_name].replicas
            changed = {role.value: number for role, number in pool.replicas.items() if before.get(role) != number}
            if changed:  # the other role may have a number that a person has said
                self._told[pool_name] = self._told.get(pool_name, {}) | changed
                self._telling.pop(pool_name, None)
        self.config = config

    def actors(self) -> list[Owned]:
        return list(self._autoscalers.values())

    def roles(self) -> dict[str, Role]:
        """Of instances that others start, those that shall be there for another role than they are named with."""
        return {i: role for wanted in self._wanted.values() for i, role in wanted.roles.items()}

    def round(self) -> None:
        """Do what the Autoscalers say. While one is away, all it scales stays."""
        for pool_name, autoscaler in self._autoscalers.items():
            with suppress(CallError):  # it is away: asked again in the next round
                self._ask(pool_name, autoscaler)
            if pool_name in self._told:
                self._tell(pool_name, autoscaler)
        with suppress(CallError):  # Ray's head is away
            wanted = (one.ids for pool in self._wanted.values() for one in pool.by_role.values())
            self._instances.step(self._fixed.union(*wanted))

    def _tell(self, pool_name: str, autoscaler: Owned) -> None:
        """Until it is heard; it is answered only once the Autoscaler has been asked again."""
        call = self._telling.get(pool_name)
        if call is None:
            self._telling[pool_name] = autoscaler.call("scale", self._told[pool_name])
        elif call.done():
            del self._telling[pool_name]
            with suppress(CallError):
                call.result()
                del self._told[pool_name]

    def _ask(self, pool_name: str, autoscaler: Owned) -> None:
        """Add what is missing. Raises CallError."""
        last = self._wanted[pool_name]
        known = {instance_id for one in last.by_role.values() for instance_id in one.ids}
        failed = {i: why for i, why in self._instances.failed.items() if i in known}
        bounds = self.config.all_pools()[pool_name].scaling
        wanted: WantedPool = autoscaler.call("wanted", last, failed, bounds).result(ANSWER_TIMEOUT_S)
        self._wanted[pool_name] = wanted
        for instance_id in failed:
            del self._instances.failed[instance_id]
        for instance_id in (instance_id for one in wanted.by_role.values() for instance_id in one.ids):
            if instance_id not in self._instances:
                self._say(f"{instance_id} starts")
                try:
                    self._instances.add(scaled_spec(self.config, pool_name, self._cluster_gpus, instance_id))
                except NoVllmError as error:
                    self._instances.failed[instance_id] = str(error)
