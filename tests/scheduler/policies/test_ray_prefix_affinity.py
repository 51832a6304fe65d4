"""ray_prefix_affinity: the longest match, or the smallest trees; of these the shortest queue."""

from math import inf

from dualmap.scheduler import Request
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.policies.ray_prefix_affinity import RayPrefixAffinity
from tests.scheduler.made import view_of


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_the_registered_policy_has_rays_own_default_which_never_falls_back_for_imbalance(script):
    assert script("a", policy="ray_prefix_affinity").core.policy._imbalanced_threshold == inf


def test_by_default_no_queue_is_too_long_for_a_match(script):
    core = script(*"abcd", policy="ray_prefix_affinity")
    assert len({where(core.arrive(f"r{i}", blocks=(1, 2))) for i in range(300)}) == 1


def test_a_tenth_of_the_prompt_is_match_enough(script):
    core = script("a", "b", policy="ray_prefix_affinity")
    warm = where(core.arrive("r0", blocks=(1, *range(100, 110))))
    assert where(core.arrive("r1", blocks=(1, *range(200, 209)))) == warm  # 1 of 10
    assert where(core.arrive("r2", blocks=(1, *range(300, 310)))) != warm  # 1 of 11


def test_what_matches_nothing_goes_to_the_smallest_tree_even_if_its_queue_is_longer(script):
    core = script("a", "b", policy="ray_prefix_affinity")
    large = where(core.arrive("r0", blocks=tuple(range(100, 120))))
    core.finish("r0")
    placed = [where(core.arrive(f"s{i}", blocks=(300 + i,))) for i in range(10)]
    assert large not in placed


def test_of_several_with_the_same_match_the_shortest_queue_takes_it(script):
    core = script("a", "b", policy="ray_prefix_affinity")
    core.arrive("r0", blocks=(1, *range(100, 112)))
    core.arrive("r1", blocks=(1, *range(200, 212)))  # matches 1 of 13: the smaller tree
    assert core.attempt("r0").instance_id != core.attempt("r1").instance_id
    shorter = core.attempt("r1").instance_id
    core.finish("r1")
    assert where(core.arrive("r2", blocks=(1,))) == shorter


def test_an_imbalance_above_the_threshold_falls_back_to_two_random_choices():
    policy = RayPrefixAffinity(imbalanced_threshold=-1)
    holders, loads = Holders(), LoadOrder()
    for instance_id in "abcd":
        policy.add(view_of(instance_id, holders, loads))
    placed = {
        policy.place(Request(f"r{i}", (1, 2), 1024), 5.0, frozenset(), 0.0).estimate.instance_id for i in range(50)
    }
    assert placed == set("abcd")
