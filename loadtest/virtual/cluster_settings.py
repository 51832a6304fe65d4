"""What a cluster in virtual time is made of, and what happens to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """capacity: what the gateways are told; None: the truth, as far as one number can tell it. role: which legs of
    requests it takes. revision: whose prompts it can read."""

    instance_id: str
    profile: EngineProfile
    capacity: InstanceCapacity | None = None
    role: Role = Role.BOTH
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """At `at_s` an instance is lost (its requests fail, its cache is gone), joins (again), or changes its speed.

    kind: "lose", "join", "leave" (it drains first) or "slow"; factor: time of each step against the profile's, for
        "slow".
    """

    at_s: float
    kind: str
    instance_id: str
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """gateways: each has its own core and takes its turn of the sessions; they learn of each other's load every
    digest_s, and when a core asks, so much late as digest_delay_s says (None: network_s). shared_cache: all instances
    have one offload tier, as large as all of theirs together; what one computed, each reads back. kv_events: whether
    instances tell what is in their caches, and in which tier; with `blocks` all of it looks as if it were in the pool.
    told_output: what
    gateways are told of the length of an answer, nothing or the truth, where no request is on record. named_sessions:
    whether they are told of each request's session, as the workload has it. scaling: only
    min_replicas of the instances are there at first, or, of each role, as many as at_first says; the others are started
    by plans, which takes start_s. ticks,
    plans: when gateways tick and when moves are planned, where that is on record; after the last tick, and otherwise
    from 0 on, every TICK_S, and without plans with each tick. cells: more than one for VirtualCells.
    max_continuations: how often an answer may go on at another instance, as gateway.max_continuations."""

    config: SchedulerConfig
    instances: Sequence[InstanceSpec]
    gateways: int = 1
    network_s: float = 0.0005
    digest_s: float = 0.1
    changes: Sequence[Change] = ()
    digest_delay_s: float | None = None
    shared_cache: bool = False
    kv_events: Literal["none", "blocks", "tiers"] = "none"
    told_output: Literal["none", "exact"] = "none"  # clients allow plenty or say nothing; none knows
    named_sessions: bool = False
    scaling: ScalingConfig | None = None
    at_first: Mapping[Role, int] = field(default_factory=dict)
    start_s: float = 30.0
    ticks: Sequence[float] = ()
    plans: Sequence[float] = ()
    cells: int = 1
    max_continuations: int = 2
