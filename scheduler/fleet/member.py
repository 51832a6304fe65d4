"""Who is in the fleet, as Fleet publishes it and gateways apply it."""

from dataclasses import KW_ONLY, dataclass
from enum import StrEnum
from typing import Any

from dualmap.scheduler.events import InstanceCapacity


class MemberState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    LOST = "lost"  # known, not serving; comes back as a higher incarnation


@dataclass(frozen=True, slots=True)
class Member:
    """One instance. model_cards: the `data` entries of its GET /v1/models. pid: of its server, 0 if not ours. pool:
    which instances it serves the same model with; empty is the first one. started_at: when the server's process began,
    Unix seconds; 0 where unknown."""

    instance_id: str
    incarnation: int
    host: str
    _: KW_ONLY
    port: int
    state: MemberState
    capacity: InstanceCapacity
    model_cards: tuple[dict[str, Any], ...] = ()
    pid: int = 0
    pool: str = ""
    started_at: float = 0.0

    @property
    def adapters(self) -> tuple[str, ...]:
        """LoRA adapters, by the names that requests give them."""
        return tuple(str(card["id"]) for card in self.model_cards if card.get("parent"))


@dataclass(frozen=True, slots=True)
class Membership:
    """The members at an epoch. A higher epoch replaces a lower one whole; epochs never repeat."""

    epoch: int = 0
    members: tuple[Member, ...] = ()

    def of_pool(self, pool: str) -> "Membership":
        return Membership(self.epoch, tuple(member for member in self.members if member.pool == pool))
