"""Prompts whose name on the rings is another chain than the blocks that caches hold."""

from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.policies.dualmap import DualMap
from dualmap.scheduler.request import ChoiceReason, Request

TOKENS = hash_trace_ids([501, 502, 503, 504])  # of the same prompts, as caches hold them


def instance_of(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def test_a_prompt_has_the_same_home_whether_its_tokens_were_known_in_time_or_not(script):
    core = script(*"abcdefgh")
    text = core.prompt("d", blocks=4)
    core.arrive("late", 2000, blocks=text)
    late = core.attempt("late").candidates
    core.arrive("known", 2000, blocks=TOKENS, key_blocks=text)
    core.arrive("known otherwise", 2000, blocks=hash_trace_ids([9, 9]), key_blocks=text)
    core.arrive("too short for a block", 100, key_blocks=text)
    assert late[0] == "d"
    assert all(core.attempt(i).candidates == late for i in ("known", "known otherwise", "too short for a block"))


def test_what_is_cached_is_told_by_the_blocks_that_caches_hold(script):
    core = script(*"abcdefgh")
    text = core.prompt("d", blocks=7)
    first = instance_of(core.arrive("first", 2048, blocks=TOKENS, key_blocks=text))
    core.finish("first")
    assert core.view(first).cache.blocks() == set(TOKENS)
    (dispatch,) = core.arrive("again", 2048, blocks=TOKENS, key_blocks=text)
    assert (dispatch.instance_id, dispatch.reason, dispatch.cached_tokens) == (first, ChoiceReason.WARM, 2047)
    core.finish("again")
    (dispatch,) = core.arrive("by its text", 2048, blocks=text)
    assert (dispatch.reason, dispatch.cached_tokens) == (ChoiceReason.BALANCED, 0)


def test_a_prefix_that_left_its_home_is_found_by_the_blocks_that_caches_hold(script):
    core = script(*"abcdefgh")
    home, other = core.prompt("d", "c", blocks=4), core.prompt("a", "b", blocks=4)
    held_at = instance_of(core.arrive("first", 2048, blocks=TOKENS, key_blocks=home))
    core.finish("first")
    (dispatch,) = core.arrive("next", 2048, blocks=TOKENS, key_blocks=other)
    assert held_at in "dc"
    assert (dispatch.instance_id, dispatch.cached_tokens) == (held_at, 2047)
    assert core.attempt("next").candidates == ("a", "b")


def test_no_more_is_followed_than_what_is_the_prompts_own(script):
    """The key is half of the prompt, and so is what is held elsewhere: it is as common as the key."""
    core = script(*"abcdefgh", key_blocks=4)
    home, other = core.prompt("d", "c", blocks=1) * 8, core.prompt("a", "b", blocks=1) * 8
    for held, follows in ((2, False), (3, True)):
        tokens = hash_trace_ids([held, held + 1, held + 2, held + 3])
        at = instance_of(core.arrive(f"first {held}", 512 * held, blocks=tokens[:held], key_blocks=home))
        core.finish(f"first {held}")
        considered = core.arrive(f"next {held}", 2048, blocks=tokens, key_blocks=other) and core.attempt(f"next {held}")
        assert (at in {estimate.instance_id for estimate in considered.considered}) == follows
        core.finish(f"next {held}")


def test_a_hot_prefix_is_told_apart_by_the_chain_of_its_key(script):
    core = script(*"abcdefgh")
    for i in range(200):
        text = hash_trace_ids([1, 2000 + i % 40, 3000 + i])
        core.arrive(f"r{i}", 700, blocks=hash_trace_ids([7]), key_blocks=text)
        core.finish(f"r{i}")
    policy = core.core.policy
    assert isinstance(policy, DualMap)
    assert policy.keys.depths == {hash_trace_ids([1])[0]: 2}
    core.arrive("last", 700, blocks=hash_trace_ids([7]), key_blocks=hash_trace_ids([1, 2000, 1]))
    assert core.attempt("last").shared_blocks == 0  # a third of a prompt that has one block


def test_a_crowd_of_equal_prompts_is_spread_though_none_has_a_block(script):
    core = script(*"abcdefgh")
    text = core.prompt("d", blocks=2)
    used = set()
    for i in range(100):
        used.add(instance_of(core.arrive(f"r{i}", 60, key_blocks=text)))
        core.finish(f"r{i}")
    assert used == set("abcdefgh")


def test_a_request_is_named_by_its_blocks_where_nothing_else_is_said():
    assert Request("r", (1, 2), 9).chain == (1, 2)
    assert Request("r", (1, 2), 9, key_blocks=(3,)).chain == (3,)
    assert Request("r", (), 9).chain == ()
