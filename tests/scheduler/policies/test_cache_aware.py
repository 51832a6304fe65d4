"""cache_aware: the longest match while loads are balanced, the shortest queue otherwise."""

from dualmap.scheduler import Request
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.policies import cache_aware
from dualmap.scheduler.policies.cache_aware import CacheAware
from tests.scheduler.made import view_of


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_a_match_above_the_threshold_goes_where_the_prefix_went(script):
    core = script(*"abcd", policy="cache_aware")
    first = where(core.arrive("r0", blocks=(1, 2, 3, 4)))
    assert where(core.arrive("r1", blocks=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))) == first  # 4 of 10 blocks


def test_a_match_of_exactly_the_threshold_goes_to_the_shortest_queue(script):
    core = script(*"abcd", policy="cache_aware")
    first = where(core.arrive("r0", blocks=(1, 2, 3)))
    assert where(core.arrive("r1", blocks=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))) != first


def test_of_several_that_match_the_one_given_it_last_is_chosen(script):
    core = script("a", "b", policy="cache_aware")
    first = where(core.arrive("r0", blocks=(1, 2, 3)))
    other = where(core.arrive("r1", blocks=(1, 12, 13, 14, 15)))
    assert first != other
    assert where(core.arrive("r2", blocks=(1,))) == other
    assert where(core.arrive("r3", blocks=(1, 2))) == first  # it matches deeper there
    assert where(core.arrive("r4", blocks=(1,))) == first


def test_the_shortest_queue_takes_over_only_beyond_both_thresholds(script):
    core = script("a", "b", policy="cache_aware")
    warm = where(core.arrive("r0", blocks=(1, 2)))
    cold = "b" if warm == "a" else "a"
    for i in range(1, 65):
        assert where(core.arrive(f"r{i}", blocks=(1, 2))) == warm  # up to 64 more than the other
    assert where(core.arrive("r65", blocks=(1, 2))) == cold


def test_load_is_balanced_while_the_longest_queue_is_below_one_and_a_half_times_the_shortest(script):
    core = script("a", "b", policy="cache_aware")
    for i in range(400):
        core.arrive(f"r{i}")
    warm = where(core.arrive("w0", blocks=(1, 2)))
    for i in range(1, 90):
        assert where(core.arrive(f"w{i}", blocks=(1, 2))) == warm


def test_early_versions_send_what_matches_little_to_the_smallest_tree(script):
    policy = CacheAware(smallest_tree=True)
    holders, loads = Holders(), LoadOrder()
    for instance_id in "ab":
        policy.add(view_of(instance_id, holders, loads))

    def place(name: str, *blocks: int) -> str:
        return policy.place(Request(name, blocks, 512 * len(blocks)), 5.0, frozenset(), 0.0).estimate.instance_id

    first = place("r0", *range(100, 120))
    second = place("r1", *range(200, 202))
    assert first != second
    assert [place(f"s{i}", 300 + i) for i in range(5)] == [second] * 5


def test_the_least_recently_placed_prefix_is_forgotten_first(script, monkeypatch):
    monkeypatch.setattr(cache_aware, "MAX_TREE_BLOCKS", 4)
    core = script("a", policy="cache_aware")
    core.arrive("r0", blocks=(1, 2))
    core.arrive("r1", blocks=(11, 12))
    core.arrive("r2", blocks=(1, 2))
    core.arrive("r3", blocks=(21,))
    placed = core.core.policy._placed
    assert placed.match((1, 2), frozenset())[0] == 2
    assert placed.match((11, 12), frozenset())[0] == 1  # its tail went before its root
