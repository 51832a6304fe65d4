"""The servers that a deployment starts, as it sees them."""

from collections.abc import Collection, Sequence
from typing import Protocol

from dualmap.router.config.instance_specs import PlacedSpec
from dualmap.router.reach.reach import Owned


class Instances(Protocol):
    """failed: those that found no place, and why. See OwnInstances."""

    failed: dict[str, str]

    def __contains__(self, instance_id: str) -> bool: ...

    def actor(self, instance_id: str) -> Owned: ...

    def actors(self) -> Sequence[Owned]: ...

    def add(self, placed: PlacedSpec) -> None: ...

    def step(self, wanted: Collection[str]) -> bool: ...

    def stop(self) -> None: ...


class NoInstances:
    """Where all run already."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}

    def __contains__(self, instance_id: str) -> bool:
        return False

    def actor(self, instance_id: str) -> Owned:
        raise KeyError(instance_id)

    def actors(self) -> Sequence[Owned]:
        return ()

    def add(self, placed: PlacedSpec) -> None:
        """Whoever asks for it hears why there is none."""
        self.failed[placed.spec.instance_id] = "no servers are started here"

    def step(self, wanted: Collection[str]) -> bool:
        return True

    def stop(self) -> None:
        pass
