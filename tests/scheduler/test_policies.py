"""What defines each comparison policy, by hand-made cases, and what DualMap answers behind the same interface."""

import pytest

from dualmap.scheduler.request import ChoiceReason


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_round_robin_takes_each_instance_in_turn_whatever_its_load(script):
    core = script("c", "a", "b", policy="round_robin")
    assert [where(core.arrive(f"r{i}", 10 ** (i % 5), blocks=(7,))) for i in range(7)] == list("abcabca")


def test_round_robin_goes_on_after_instances_join_and_leave(script):
    core = script("a", "b", policy="round_robin")
    core.arrive("r0")
    core.join("c")
    assert [where(core.arrive(f"r{i}")) for i in range(1, 4)] == list("bca")
    core.lose("c")
    assert [where(core.arrive(f"r{i}")) for i in range(4, 8)] in (list("abab"), list("baba"))


def test_round_robin_passes_over_an_instance_that_failed_the_request(script):
    core = script("a", "b", "c", policy="round_robin")
    core.arrive("r")
    assert where(core.fail("r")) == "b"
    assert where(core.fail("r", 2)) == "c"


def test_least_loaded_takes_the_instance_with_the_fewest_requests(script):
    core = script("a", "b", "c", policy="least_loaded")
    assert [where(core.arrive(f"r{i}")) for i in range(3)] == list("abc")
    core.finish("r1")
    assert where(core.arrive("r3")) == "b"
    core.finish("r0")
    core.finish("r2")
    assert sorted(where(core.arrive(f"r{i}")) for i in (4, 5)) == ["a", "c"]


def test_least_loaded_counts_requests_not_tokens(script):
    core = script("a", "b", policy="least_loaded")
    assert where(core.arrive("long", 100_000)) == "a"
    core.arrive("short-1", 10)
    core.arrive("short-2", 10)
    core.finish("short-1")
    assert where(core.arrive("next")) == "b"


def test_least_loaded_shares_an_idle_fleet_among_all(script):
    core = script("a", "b", "c", policy="least_loaded")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")


@pytest.mark.parametrize("policy", ["round_robin", "least_loaded"])
def test_a_comparison_policy_dispatches_at_once(script, policy: str):
    core = script("a", policy=policy, capacity={"max_running": 2})
    commands = [core.arrive(f"r{i}", 5000) for i in range(20)]
    assert {c.reason for (c,) in commands} == {ChoiceReason.POLICY}
    assert core.view("a").waiting_count == 0
    assert core.core.snapshot(core.now) is None


@pytest.mark.parametrize("policy", ["round_robin", "least_loaded", "dualmap"])
def test_without_an_instance_every_policy_has_no_place(script, policy: str):
    core = script(policy=policy)
    assert [type(c).__name__ for c in core.arrive("r")] == ["Reject"]
    core.join("a")
    assert where(core.arrive("r")) == "a"
    core.lose("a")
    assert [type(c).__name__ for c in core.arrive("s")] == ["Reject"]


def test_dualmap_sends_equal_prefixes_to_the_instance_that_holds_them(script):
    core = script(*"abcdefgh")
    first = where(core.arrive("r0", 2000, blocks=core.prompt("d", blocks=4)))
    core.finish("r0")
    for i in range(1, 6):
        (dispatch,) = core.arrive(f"r{i}", 2000, blocks=core.prompt("d", blocks=4))
        assert (dispatch.instance_id, dispatch.reason) == (first, ChoiceReason.WARM)
        assert dispatch.cached_tokens == 1999
        core.finish(f"r{i}")


def test_dualmap_places_a_prompt_without_blocks_by_load_on_two_candidates(script):
    core = script(*"abcdefgh")
    placed = set()
    for i in range(64):
        core.arrive(f"r{i}", 100)
        attempt = core.attempt(f"r{i}")
        assert len(set(attempt.candidates)) == 2
        placed.add(attempt.instance_id)
    assert placed == set("abcdefgh")
