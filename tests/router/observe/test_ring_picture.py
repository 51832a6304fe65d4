"""The rings as they are drawn: whose arc a prefix is shown on is whose candidate it is."""

import random

import pytest

from dualmap.router.observe.ring_picture import SLOTS, ring_picture, turn
from dualmap.scheduler.dual_ring import DualRing

RANDOM = random.Random(7)
KEYS = [RANDOM.getrandbits(64) for _ in range(2000)]


def make_rings(instances: int, virtual_nodes: int = 1, **options) -> DualRing:
    rings = DualRing(virtual_nodes, **options)
    for number in range(instances):
        rings.add(f"i{number}")
    return rings


def owner_drawn_at(picture: dict, place: float) -> str:
    slot = int(place * SLOTS)
    for length, owner in picture["runs"]:
        slot -= length
        if slot < 0:
            return picture["owners"][owner]
    raise AssertionError("the ring is not closed")


def test_a_prefix_is_drawn_on_the_arc_of_its_candidate():
    rings = make_rings(4)
    for ring, picture in zip(rings.rings, ring_picture(rings), strict=True):
        agree = sum(owner_drawn_at(picture, turn(ring, key)) == ring.lookup(key) for key in KEYS)
        assert agree > len(KEYS) * (1 - 4 / SLOTS) - 20  # all but those in a slot where an arc ends


@pytest.mark.parametrize(("instances", "virtual_nodes"), [(1, 1), (3, 128), (300, 128)])
def test_a_picture_is_whole_and_bounded(instances, virtual_nodes):
    for picture in ring_picture(make_rings(instances, virtual_nodes)):
        assert sum(length for length, _ in picture["runs"]) == SLOTS
        assert len(picture["owners"]) == len(picture["shares"]) == instances
        assert sum(picture["shares"].values()) == pytest.approx(1)


def test_a_share_is_the_share_of_keys():
    rings = make_rings(3, 16)
    ring, picture = rings.rings[0], ring_picture(rings)[0]
    found = [ring.lookup(key) for key in KEYS]
    for instance_id, share in picture["shares"].items():
        assert found.count(instance_id) / len(KEYS) == pytest.approx(share, abs=0.04)


def test_rings_without_instances_and_single_rings_are_drawn_too():
    assert ring_picture(make_rings(0)) == [{"owners": [], "runs": [], "shares": {}}] * 2
    assert len(ring_picture(make_rings(2, dual=False))) == 1
