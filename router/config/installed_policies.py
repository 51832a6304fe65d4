"""Policies that other packages provide: entry points of the group `dualmap.policies`, by name, each a class or function
that makes a policy of a SchedulerConfig."""

from functools import partial
from importlib.metadata import EntryPoint, entry_points

from dualmap.scheduler import ConfigError, Policy, Scheduler, SchedulerConfig, register_policy

GROUP = "dualmap.policies"
NEEDED = ("holds_requests", "add", "remove", "place")


def register_installed_policies() -> None:
    """Let a SchedulerConfig name them. A process calls this before it reads a configuration or makes a Scheduler; a
    policy's package is imported where the first Scheduler with it is made. Raises ConfigError for a name that is taken.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if (other := found.setdefault(point.name, point)) is not point:
            raise ConfigError(f"policy {point.name!r} is provided twice, as {other.value} and as {point.value}")
        register_policy(point.name, partial(_make, point))


def check_policy(config: SchedulerConfig) -> None:
    """Spares the user the start of everything else. Raises ConfigError where the policy cannot be made."""
    Scheduler(config)


def _make(point: EntryPoint, config: SchedulerConfig) -> Policy:
    try:
        policy: Policy = point.load()(config)
    except Exception as error:  # of another's code
        raise ConfigError(f"policy {point.name!r}, {point.value}: {type(error).__name__}: {error}") from error
    if missing := [name for name in NEEDED if not hasattr(policy, name)]:
        raise ConfigError(f"policy {point.name!r}, {point.value}: {type(policy).__name__} lacks {', '.join(missing)}")
    return policy
