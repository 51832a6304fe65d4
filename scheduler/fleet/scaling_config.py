"""When a fleet grows and shrinks. Each default works."""

from dataclasses import KW_ONLY, dataclass, fields, replace

from dualmap.scheduler.errors import ConfigError
from dualmap.scheduler.role import Role


def _most(min_replicas: int, max_replicas: int | None) -> int:
    """What max_replicas stands for."""
    return max(1, min_replicas) if max_replicas is None else max_replicas


def _check_bounds(min_replicas: int, max_replicas: int | None, least: int, why: str = "") -> None:
    """least: that min_replicas may be. Raises ConfigError."""
    if min_replicas < least:
        raise ConfigError(f"min_replicas must be at least {least}, not {min_replicas!r}{why}")
    if _most(min_replicas, max_replicas) < (few := max(1, min_replicas)):
        raise ConfigError(f"max_replicas must be at least {few}, as min_replicas is, not {max_replicas!r}")


@dataclass(frozen=True, slots=True)
class RoleBounds:
    """How many instances of one role there may be. Raises ConfigError."""

    min_replicas: int = 1  # instances that always run
    # Instances that load asks for at the most, people also for more; null: min_replicas.
    max_replicas: int | None = None

    def __post_init__(self) -> None:
        why = ": each role needs an instance that always runs: nothing would tell when the first one is wanted again"
        _check_bounds(self.min_replicas, self.max_replicas, least=1, why=why)

    @property
    def most(self) -> int:
        """What max_replicas stands for."""
        return _most(self.min_replicas, self.max_replicas)


@dataclass(frozen=True, slots=True)
class ScalingConfig:
    """Raises ConfigError with field, rule and value.

    target_load: share of the prefill capacity that may be asked for; what is above keeps bursts within the objective.
    decode_load: share of the places for running requests that may be taken. kv_load: share of the KV cache that may be
    taken.
    attainment: share of first tokens within the objective, or of answers at the pace of theirs, below which one more
    instance is wanted.
    up_window_s: over which the load must call for more. down_window_s: over which the load must call for fewer.
    cool_down_s: after any change, until the next one downwards. max_step: instances started at once.
    clear_backlog_s: a backlog is to be worked off within this time, besides what arrives.
    scale_to_zero_after_s: nothing may have been asked for so long before the last instance goes, where min_replicas is
    0. drain_deadline_s: what still runs on an instance that leaves is aborted then. dry_run: plans are only told.
    """

    min_replicas: int = 1  # instances that always run; 0: none does while nothing is asked for
    # Instances that load asks for at the most; people (`dualmap scale`) also for more. null: min_replicas, 1 at least.
    max_replicas: int | None = None
    target_load: float = 0.8
    _: KW_ONLY
    decode_load: float = 0.85
    kv_load: float = 0.9
    attainment: float = 0.95
    up_window_s: float = 30.0
    down_window_s: float = 120.0
    cool_down_s: float = 60.0
    max_step: int = 2
    clear_backlog_s: float = 20.0
    scale_to_zero_after_s: float = 300.0
    drain_deadline_s: float = 120.0
    dry_run: bool = False
    # Where some instances prefill and others decode: each role follows its own load, between bounds of its own, which
    # stand in the place of min_replicas and max_replicas.
    prefill: RoleBounds | None = None
    decode: RoleBounds | None = None  # with prefill
    # The number of instances of both roles together stays, and one changes its role where its role has too many and the
    # other one too few: between the min_replicas of both. Of servers that others start, all have to be able to do both.
    change_roles: bool = False

    def __post_init__(self) -> None:
        for name in ("target_load", "decode_load", "kv_load", "attainment"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be greater than 0 and at most 1, not {getattr(self, name)!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_s") and not value > 0:
                raise ConfigError(f"{field.name} must be greater than 0, not {value!r}")
        if self.max_step < 1:
            raise ConfigError(f"max_step must be at least 1, not {self.max_step!r}")
        if (self.prefill is None) is not (self.decode is None):
            raise ConfigError("prefill and decode go together: each role has bounds of its own")
        if self.change_roles and self.prefill is None:
            raise ConfigError("change_roles is for instances with roles: prefill and decode are missing")
        if self.prefill is not None and (self.min_replicas, self.most) != (1, 1):
            raise ConfigError("min_replicas and max_replicas are those of prefill and of decode: set them there")
        _check_bounds(self.min_replicas, self.max_replicas, least=0)

    @property
    def most(self) -> int:
        """What max_replicas stands for."""
        return _most(self.min_replicas, self.max_replicas)

    def of_role(self, role: Role) -> "ScalingConfig":
        """As it is for the instances of one role; where there are none, for all."""
        bounds = {Role.PREFILL: self.prefill, Role.DECODE: self.decode}.get(role)
        if bounds is None:
            return self
        least, most = bounds.min_replicas, bounds.max_replicas
        return replace(self, min_replicas=least, max_replicas=most, prefill=None, decode=None, change_roles=False)
