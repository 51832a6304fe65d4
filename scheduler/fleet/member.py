"""Who is in the fleet, as Fleet publishes it and gateways apply it."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from dualmap.scheduler.events import ServedModel
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role

LONGEST_START_S = 900.0  # of a server that others start: one that has not come up by then is not waited for


class MemberState(StrEnum):
    """Gateways send requests to READY ones alone, and leave DRAINING ones those they have."""

    STARTING = "starting"  # its server loads, is started again, or answers, but as none that can be used
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"  # its server was told to end
    STOPPED = "stopped"
    LOST = "lost"  # nobody answers there; comes back as a higher incarnation


SERVING = (MemberState.READY, MemberState.DRAINING)


class ServerEnd(NamedTuple):
    """Of a server of ours. log_line: the last one it wrote, or as much as is shown of it."""

    exit_code: int
    log_line: str


@dataclass(frozen=True, slots=True)
class Member:
    """One instance. model_cards: the `data` entries of its GET /v1/models. pid: of its server, 0 if not ours. pool:
    which instances it serves the same model with; empty is the first one. reason: why it is in its state, for people;
    empty where there is nothing to say. since: when it came into it, in Unix seconds. started_at: when its server's
    process began, in Unix seconds; 0 where unknown. last_end: how its last server ended; None: none has. role: which
    parts of requests it is given. revision: who has the same one can read what it has computed."""

    instance_id: str
    incarnation: int
    endpoint: Endpoint
    _: KW_ONLY
    state: MemberState
    capacity: InstanceCapacity
    model_cards: tuple[dict[str, Any], ...] = ()
    pid: int = 0
    pool: str = ""
    reason: str = ""
    since: float = 0.0
    started_at: float = 0.0
    last_end: ServerEnd | None = None
    role: Role = Role.BOTH
    revision: str = ""

    def is_same_to_gateways(self, other: "Member") -> bool:
        """Whether the other, of the same instance, differs in nothing that requests depend on."""
        if self.state not in SERVING and other.state not in SERVING:
            return True
        told = replace(self, reason=other.reason, since=other.since, started_at=other.started_at)
        return replace(told, last_end=other.last_end) == other

    @property
    def adapters(self) -> tuple[str, ...]:
        """LoRA adapters, by the names that requests give them."""
        return tuple(str(card["id"]) for card in self.model_cards if card.get("parent"))

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """What it serves besides, by each name."""
        cards = (card for card in self.model_cards if not card.get("parent"))
        return tuple(ServedModel(str(card.get("id")), max_tokens_of(card)) for card in cards)


def max_tokens_of(card: Mapping[str, Any]) -> int:
    """The longest prompt and answer together, as the card of a model says; 0 where it does not."""
    tokens = card.get("max_model_len")
    return tokens if isinstance(tokens, int) and tokens > 0 else 0


@dataclass(frozen=True, slots=True)
class Membership:
    """The members at an epoch. A higher epoch replaces a lower one whole; epochs never repeat."""

    epoch: int = 0
    members: tuple[Member, ...] = ()

    def of_pool(self, pool: str) -> "Membership":
        return Membership(self.epoch, tuple(member for member in self.members if member.pool == pool))
