"""The rings as the live page draws them: bounded in size, however many instances there are."""

from bisect import bisect_left
from collections import Counter
from typing import Any

from dualmap.scheduler.dual_ring import DualRing
from dualmap.scheduler.ring import HashRing

SLOTS = 720  # half a degree each
PLACES = 1 << 64


def ring_picture(rings: DualRing) -> list[dict[str, Any]]:
    """For each ring: `owners`, ids of instances; `runs`, pairs of how many slots and whose they are, clockwise from
    noon; `shares`, of the ring, by instance, which are exact."""
    return [_picture(ring) for ring in rings.rings]


def turn(ring: HashRing, key: int) -> float:
    """Where the key is on the ring, 0 to 1, clockwise from noon."""
    return ring.place(key) / PLACES


def _picture(ring: HashRing) -> dict[str, Any]:
    points = ring.points()
    if not points:
        return {"owners": [], "runs": [], "shares": {}}
    shares: Counter[str] = Counter()
    before = points[-1][0] - PLACES
    for point, owner in points:
        shares[owner] += point - before
        before = point
    owners = sorted(shares)
    number = {owner: i for i, owner in enumerate(owners)}
    places = [point for point, _ in points]
    runs: list[list[int]] = []
    for slot in range(SLOTS):
        middle = (2 * slot + 1) * PLACES // (2 * SLOTS)
        whose = number[points[bisect_left(places, middle) % len(points)][1]]
        if runs and runs[-1][1] == whose:
            runs[-1][0] += 1
        else:
            runs.append([1, whose])
    return {"owners": owners, "runs": runs, "shares": {owner: shares[owner] / PLACES for owner in owners}}
