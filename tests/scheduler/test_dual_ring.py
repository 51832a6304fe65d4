"""Two rings: each key has two distinct candidates as long as two instances are left."""

import random
from collections import Counter

import pytest

from dualmap.scheduler.dual_ring import FIRST_SEED, SECOND_SEED, DualRing
from dualmap.scheduler.ring import HashRing

RANDOM = random.Random(11)
KEYS = [RANDOM.getrandbits(64) for _ in range(5_000)]


def make_rings(*ids: str, dual: bool = True) -> DualRing:
    rings = DualRing(128, dual=dual)
    for instance_id in ids:
        rings.add(instance_id)
    return rings


def make_ring(seed: int, *ids: str) -> HashRing:
    ring = HashRing(seed, 128)
    for instance_id in ids:
        ring.add(instance_id)
    return ring


IDS = tuple("abcdefgh")


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_candidates_are_two_distinct_instances(count: int):
    rings = make_rings(*IDS[:count])
    for key in KEYS:
        first, second = rings.candidates(key)
        assert first != second


def test_each_ring_names_one_candidate_and_the_second_gives_way_where_they_agree():
    rings, first, second = make_rings(*IDS), make_ring(FIRST_SEED, *IDS), make_ring(SECOND_SEED, *IDS)
    agreed = 0
    for key in KEYS:
        of_first, of_second = first.lookup(key), second.lookup(key)
        if of_first == of_second:
            agreed += 1
            of_second = second.lookup(key, {of_first})
        assert rings.candidates(key) == (of_first, of_second)
    assert 500 < agreed < 800


@pytest.mark.parametrize(
    ("ids", "avoid", "count"),
    [("", "", 0), ("a", "", 1), ("a", "a", 0), ("ab", "a", 1), ("ab", "ab", 0), ("abc", "a", 2), ("abc", "ab", 1)],
)
def test_there_are_as_many_candidates_as_instances_left(ids: str, avoid: str, count: int):
    rings = make_rings(*ids)
    for key in KEYS[:200]:
        candidates = rings.candidates(key, frozenset(avoid))
        assert len(candidates) == count
        assert not set(candidates) & set(avoid)


def test_with_one_ring_there_is_one_candidate_that_of_the_first_ring():
    one, two = make_rings(*IDS, dual=False), make_rings(*IDS)
    for key in KEYS[:1000]:
        assert one.candidates(key) == two.candidates(key)[:1]


def test_every_pair_of_instances_is_in_use():
    rings = make_rings(*IDS)
    pairs = Counter(rings.candidates(key) for key in KEYS)
    fair = len(KEYS) / (8 * 7)
    assert len(pairs) == 8 * 7
    assert all(0.3 * fair < count < 2.5 * fair for count in pairs.values())


def test_when_an_instance_leaves_every_key_keeps_a_candidate_it_had():
    rings = make_rings(*IDS)
    before = {key: rings.candidates(key) for key in KEYS}
    rings.remove("c")
    for key, had in before.items():
        has = rings.candidates(key)
        assert set(had) & set(has)
        assert has == had or "c" in had


def test_when_an_instance_joins_every_key_keeps_a_candidate_it_had():
    rings = make_rings(*IDS)
    before = {key: rings.candidates(key) for key in KEYS}
    rings.add("new")
    changed = 0
    for key, had in before.items():
        has = rings.candidates(key)
        assert set(had) & set(has)
        assert has == had or "new" in has
        changed += has != had
    assert changed / len(KEYS) < 0.35
    assert len(rings) == 9
