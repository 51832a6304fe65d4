"""What a nemesis does to a cluster in virtual time: a schedule of blows, drawn from a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Deed(StrEnum):
    KILL = "kill"  # a server; it starts again after `seconds`, with an empty cache
    HANG = "hang"  # a server takes requests and answers nothing, for `seconds`
    SLOW = "slow"  # a server needs `factor` times as long for a step, for `seconds`
    DRAIN = "drain"  # an instance leaves; what runs there after DRAIN_S is cut off; it joins again after `seconds`
    MUTE = "mute"  # nothing is reported of an instance, which serves on, for `seconds`
    GATEWAY = "gateway"  # a gateway's process dies; another one serves in its place after `seconds`
    FLEET = "fleet"  # Fleet's process dies; another one is there after `seconds`


@dataclass(frozen=True, slots=True)
class Blow:
    """target: an instance's id, a gateway's number; empty for Fleet."""

    at_s: float
    deed: Deed
    target: str
    seconds: float
    factor: float = 1.0

    def __str__(self) -> str:
        much = f" x{self.factor:g}" if self.deed is Deed.SLOW else ""
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


def draw_schedule(seed: int, instances: Sequence[str], gateways: int, seconds: float) -> Schedule:
    """3 to 8 blows in the time between a tenth and nine tenths of the run, some of which meet."""
    rng = random.Random(seed)
    deeds = [deed for deed in Deed if deed is not Deed.GATEWAY or gateways > 1]
    blows = []
    for _ in range(rng.randint(3, 8)):
        deed = rng.choice(deeds)
        if deed is Deed.GATEWAY:
            target = str(rng.randrange(gateways))
        else:
            target = "" if deed is Deed.FLEET else rng.choice(instances)
        at_s = rng.uniform(0.1, 0.9) * seconds
        blows.append(Blow(at_s, deed, target, rng.uniform(0.5, seconds / 4), rng.choice((2.0, 5.0, 20.0))))
    blows.sort(key=lambda blow: blow.at_s)
    return Schedule(seed, tuple(blows), twice=rng.choice((0.0, 0.02, 0.1)), late=rng.choice((0.0, 0.02, 0.1)))
