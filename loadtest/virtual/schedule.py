"""What a nemesis does to a cluster in virtual time: a schedule of blows, drawn from a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dualmap.scheduler.role import Role


class Deed(StrEnum):
    KILL = "kill"  # a server; it starts again after `seconds`, with an empty cache
    HANG = "hang"  # a server takes requests and answers nothing, for `seconds`
    SLOW = "slow"  # a server needs `factor` times as long for a step, for `seconds`
    DRAIN = "drain"  # an instance leaves; what runs there after DRAIN_S is cut off; it joins again after `seconds`
    MUTE = "mute"  # nothing is reported of an instance, which serves on, for `seconds`
    GATEWAY = "gateway"  # a gateway's process dies; another one serves in its place after `seconds`
    RELABEL = "relabel"  # an instance is there for something else, for `seconds`: it drains, and comes again as that
    FLEET = "fleet"  # Fleet's process dies; another one is there after `seconds`


@dataclass(frozen=True, slots=True)
class Blow:
    """target: an instance's id, a gateway's number; empty for Fleet. role, revision: what a relabelled one has."""

    at_s: float
    deed: Deed
    target: str
    seconds: float
    factor: float = 1.0
    role: Role = Role.BOTH
    revision: str = ""

    def __str__(self) -> str:
        much = f" x{self.factor:g}" if self.deed is Deed.SLOW else ""
        much = f" as {self.role} {self.revision}".rstrip() if self.deed is Deed.RELABEL else much
        return f"{self.at_s:.1f} s: {self.deed} {self.target}{much} for {self.seconds:.1f} s".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class Schedule:
    """twice, late: shares of what gateways are told that comes a second time, or late by up to `late_s`."""

    seed: int
    blows: tuple[Blow, ...]
    twice: float = 0.0
    late: float = 0.0
    late_s: float = 0.05

    def __str__(self) -> str:
        told = f"{self.twice:.0%} told twice, {self.late:.0%} late"
        return "; ".join((f"seed {self.seed}: {told}", *map(str, self.blows)))


def draw_schedule(
    seed: int, instances: Sequence[str], gateways: int, seconds: float, revisions: Sequence[str] = ()
) -> Schedule:
    """3 to 8 blows in the time between a tenth and nine tenths of the run, some of which meet. revisions: of instances
    with roles, 1 to 3 of which are there for something else for a while; none: they have no roles."""
    rng = random.Random(seed)
    deeds = [deed for deed in Deed if deed is not Deed.RELABEL and (deed is not Deed.GATEWAY or gateways > 1)]
    blows = []
    for _ in range(rng.randint(3, 8)):
        deed = rng.choice(deeds)
        if deed is Deed.GATEWAY:
            target = str(rng.randrange(gateways))
        else:
            target = "" if deed is Deed.FLEET else rng.choice(instances)
        at_s = rng.uniform(0.1, 0.9) * seconds
        blows.append(Blow(at_s, deed, target, rng.uniform(0.5, seconds / 4), rng.choice((2.0, 5.0, 20.0))))
    twice, late = (rng.choice((0.0, 0.02, 0.1)) for _ in range(2))
    for _ in range(rng.randint(1, 3) if revisions else 0):
        at_s, target, lasts_s = rng.uniform(0.1, 0.8) * seconds, rng.choice(instances), rng.uniform(2.0, seconds / 3)
        role, revision = rng.choice((Role.PREFILL, Role.DECODE)), rng.choice(revisions)
        blows.append(Blow(at_s, Deed.RELABEL, target, lasts_s, role=role, revision=revision))
    blows.sort(key=lambda blow: blow.at_s)
    return Schedule(seed, tuple(blows), twice=twice, late=late)
