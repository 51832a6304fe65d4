"""One ring: who owns a key depends on ids, weights and seed alone, and little changes when members do."""

import random
from collections import Counter

import pytest

from dualmap.scheduler.ring import HashRing

RANDOM = random.Random(3)
KEYS = [RANDOM.getrandbits(64) for _ in range(10_000)]
IDS = [f"instance-{i}" for i in range(16)]


def make_ring(ids: list[str], seed: int = 1, virtual_nodes: int = 128, **weights: float) -> HashRing:
    ring = HashRing(seed, virtual_nodes)
    for instance_id in ids:
        ring.add(instance_id, weights.get(instance_id, 1.0))
    return ring


def owners(ring: HashRing) -> list[str | None]:
    return [ring.lookup(key) for key in KEYS]


def test_the_order_of_joining_does_not_matter():
    shuffled = random.Random(5).sample(IDS, len(IDS))
    assert owners(make_ring(IDS)) == owners(make_ring(shuffled))


def test_leaving_and_coming_back_restores_the_ring():
    ring = make_ring(IDS)
    before = owners(ring)
    ring.remove("instance-3")
    owners(ring)
    ring.add("instance-3")
    assert owners(ring) == before


def test_a_join_takes_its_fair_share_of_keys_and_changes_no_others():
    ring = make_ring(IDS)
    before = owners(ring)
    ring.add("instance-new")
    after = owners(ring)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"instance-new"}
    assert 0.6 < len(moved) / len(KEYS) * 17 < 1.4


def test_a_leave_spreads_the_keys_of_that_instance_only():
    ring = make_ring(IDS)
    before = owners(ring)
    ring.remove("instance-5")
    after = owners(ring)
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {old for old, _ in moved} == {"instance-5"}
    assert len(moved) == before.count("instance-5")
    assert len({new for _, new in moved}) >= 12


def test_keys_are_spread_about_evenly():
    counts = Counter(owners(make_ring(IDS)))
    fair = len(KEYS) / len(IDS)
    assert all(0.7 * fair < counts[i] < 1.3 * fair for i in IDS)


@pytest.mark.parametrize("weight", [0.25, 0.5, 2.0, 4.0])
def test_an_instance_is_given_keys_by_its_weight(weight: float):
    counts = Counter(owners(make_ring(IDS, **{"instance-0": weight})))
    fair = len(KEYS) * weight / (len(IDS) - 1 + weight)
    assert 0.7 * fair < counts["instance-0"] < 1.3 * fair


def test_the_smallest_weight_still_has_a_point():
    ring = make_ring(["a"], a=1e-9)
    assert ring.lookup(1) == "a"


def test_adding_again_with_another_weight_replaces_the_points():
    ring = make_ring(IDS)
    ring.add("instance-0", 3.0)
    assert owners(ring) == owners(make_ring(IDS, **{"instance-0": 3.0}))
    assert len(ring) == len(IDS)


def test_rings_of_other_seeds_are_independent():
    agree = sum(a == b for a, b in zip(owners(make_ring(IDS, seed=1)), owners(make_ring(IDS, seed=2)), strict=True))
    assert 0.7 / 16 < agree / len(KEYS) < 1.3 / 16


def test_avoided_instances_are_walked_past_and_no_other_key_moves():
    ring = make_ring(IDS)
    avoid = {"instance-1", "instance-2"}
    for key in KEYS[:2000]:
        usual, now = ring.lookup(key), ring.lookup(key, avoid)
        assert now not in avoid
        assert now == usual or usual in avoid


@pytest.mark.parametrize(
    ("ids", "avoid", "expected"),
    [
        ([], set(), None),
        ([], {"a"}, None),
        (["a"], set(), "a"),
        (["a"], {"a"}, None),
        (["a"], {"b"}, "a"),
        (["a", "b"], {"a"}, "b"),
        (["a", "b"], {"a", "b"}, None),
        (["a", "b"], {"a", "b", "c"}, None),
    ],
)
def test_there_is_an_owner_as_long_as_one_is_left(ids: list[str], avoid: set[str], expected: str | None):
    ring = make_ring(ids, virtual_nodes=4)
    assert {ring.lookup(key, avoid) for key in (0, 1, 2**63, 2**64 - 1)} == {expected}


def test_removing_an_unknown_instance_changes_nothing():
    ring = make_ring(IDS)
    before = owners(ring)
    ring.remove("nobody")
    assert owners(ring) == before
