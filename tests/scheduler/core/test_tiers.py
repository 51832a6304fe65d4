"""Blocks in tiers behind the instances' pools, as the core hears of them and what it makes of them."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import (
    BlocksRemoved,
    BlocksStored,
    CacheCleared,
    FailureCause,
    FirstToken,
    InstanceJoined,
    InstanceLost,
    RequestArrived,
    RequestFailed,
    RequestFinished,
    ServedModel,
)
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.tiers import FIRST_SHARES, TIERS

PROMPT = tuple(range(1, 11))  # blocks of 100 tokens
CAPACITY = InstanceCapacity(prefill_tokens_per_s=1000.0, kv_tokens=100_000)
CPU, STORAGE, REMOTE = FIRST_SHARES


def core_of(*instance_ids: str, **settings) -> Scheduler:
    core = Scheduler(SchedulerConfig(block_tokens=100, slow_start_s=0.0, **settings))
    for instance_id in instance_ids or ("a", "b"):
        core.handle(InstanceJoined(instance_id, 1, CAPACITY), 0.0)
    return core


def request(request_id: str = "r", blocks: Sequence[int] = PROMPT, tokens: int = 1050) -> Request:
    return Request(request_id, tuple(blocks), tokens)


def estimates(core: Scheduler, asked: Request | None = None) -> dict[str, tuple[int, int, int]]:
    """By instance: cached tokens, what they are worth, work."""
    found = {i: view.estimate_ttft(asked or request()) for i, view in core.instances.items()}
    return {i: (e.cached_tokens, e.held_tokens, e.work_tokens) for i, e in found.items()}


def dispatched(core: Scheduler, asked: Request, now: float = 1.0) -> Dispatch:
    (command,) = core.handle(RequestArrived(asked), now)
    assert isinstance(command, Dispatch)
    core.check()
    return command


def test_a_block_in_a_slower_tier_is_worth_less_by_what_loading_costs():
    core = core_of("a", "b", "c", "d")
    core.handle(BlocksStored("a", PROMPT), 0.0)
    core.handle(BlocksStored("b", PROMPT, "cpu"), 0.0)
    core.handle(BlocksStored("c", PROMPT, "storage"), 0.0)
    core.check()
    assert estimates(core) == {
        "a": (1000, 1000, 50),
        "b": (1000, 970, 80),
        "c": (1000, 750, 300),
        "d": (0, 0, 1050),
    }


def test_a_block_is_demoted_and_promoted_as_its_copies_go_and_come():
    core = core_of("a")
    core.handle(BlocksStored("a", PROMPT), 0.0)
    core.handle(BlocksStored("a", PROMPT, "storage"), 0.0)
    core.handle(BlocksStored("a", PROMPT[:5], "cpu"), 0.0)
    assert estimates(core)["a"] == (1000, 1000, 50)
    core.handle(BlocksRemoved("a", PROMPT[2:]), 0.0)
    assert estimates(core)["a"] == (1000, 1000 - 9 - 125, 50 + 134)
    core.handle(BlocksRemoved("a", PROMPT[:5], "cpu"), 0.0)
    assert estimates(core)["a"] == (1000, 800, 250)
    core.handle(BlocksStored("a", PROMPT[:9]), 0.0)
    assert estimates(core)["a"] == (1000, 975, 75)
    core.handle(BlocksRemoved("a", PROMPT, "storage"), 0.0)
    assert estimates(core)["a"] == (900, 900, 150)
    core.handle(BlocksStored("a", PROMPT, "cpu"), 0.0)
    core.handle(CacheCleared("a"), 0.0)
    assert estimates(core)["a"] == (0, 0, 1050)
    core.check()


def test_a_prompt_goes_where_it_is_in_the_pool_before_where_it_would_be_loaded():
    core = core_of("a", "b", "c")
    core.handle(BlocksStored("a", PROMPT, "storage"), 0.0)
    core.handle(BlocksStored("b", PROMPT), 0.0)
    core.handle(BlocksStored("c", PROMPT, "cpu"), 0.0)
    command = dispatched(core, request())
    assert (command.instance_id, command.reason, command.loads) == ("b", ChoiceReason.WARM, None)


def test_who_has_it_in_a_tier_is_found_like_any_other_holder():
    core = core_of("a", "b", "c", "d", "e", "f")
    assert core.holders.deepest(PROMPT) == (0, 0)
    core.handle(BlocksStored("e", PROMPT, "cpu"), 0.0)
    command = dispatched(core, request())
    assert (command.instance_id, command.cached_tokens) == ("e", 1000)
    assert command.loads.tokens == (("cpu", 1000),)
    assert "1,000 of 1,050 tokens cached, 1,000 of them in cpu" in core.story("r")[0]


def test_what_is_loaded_is_in_the_pool_from_then_on_but_not_where_it_never_ran():
    core = core_of("a", "b")
    core.handle(BlocksStored("a", PROMPT, "cpu"), 0.0)
    attempt = dispatched(core, request())
    assert core.instances["a"].booked_prefill_tokens == 50 + 30
    assert estimates(core)["a"] == (1000, 1000, 50)
    core.handle(RequestFailed("r", attempt.attempt, 0, cause=FailureCause.REFUSED), 1.1)
    core.check()
    assert estimates(core)["a"] == (1000, 970, 80)


def test_usage_counts_what_was_loaded_as_cached_and_misleads_nobody():
    """What the tier had makes up for nothing that the pool was believed to have, and was right of the pool."""
    core = core_of("a")
    view = core.instances["a"]
    core.handle(BlocksStored("a", PROMPT[:4]), 0.0)
    core.handle(BlocksStored("a", PROMPT, "cpu"), 0.0)
    attempt = dispatched(core, request())
    assert (attempt.cached_tokens, attempt.loads.pool_tokens) == (1000, 400)
    most = view.cache._max_blocks
    core.handle(FirstToken("r", attempt.attempt), 2.0)
    # the tier had dropped most of it: the pool is no smaller for that
    core.handle(RequestFinished("r", attempt.attempt, 5, cached_tokens=500, prompt_tokens=1050), 2.5)
    assert view.cache._max_blocks == most
    core.handle(CacheCleared("a"), 2.5)
    core.handle(BlocksStored("a", PROMPT[:4]), 2.5)
    core.handle(BlocksStored("a", PROMPT, "cpu"), 2.5)
    again = dispatched(core, request("s"), 3.0)
    core.handle(FirstToken("s", again.attempt), 4.0)
    core.handle(RequestFinished("s", again.attempt, 5, cached_tokens=200, prompt_tokens=1050), 4.5)
    assert view.cache._max_blocks < most


def test_first_tokens_teach_what_a_tier_costs():
    core = core_of("a")
    long = tuple(range(100, 200))
    now = 1.0
    for turn in range(60):
        name = f"r{turn}"
        core.handle(CacheCleared("a"), now)
        core.handle(BlocksStored("a", long, "cpu"), now)
        attempt = dispatched(core, request(name, long, 10_100), now)
        now += 0.1 + 10_000 * 0.2 / 1000  # a fifth of computing
        core.handle(FirstToken(name, attempt.attempt), now)
        core.handle(RequestFinished(name, attempt.attempt, 1, cached_tokens=10_000, prompt_tokens=10_100), now)
        now += 1.0
    assert core.instances["a"].tiers.shares[0] == pytest.approx(0.2, rel=0.05)
    assert core.instances["a"].seconds_per_token == pytest.approx(0.001)


# Tiers that all instances read.


def test_what_one_instance_stores_in_a_shared_tier_is_worth_the_same_at_each():
    core = core_of("a", "b", "c", shared_media=("remote",))
    core.handle(BlocksStored("a", PROMPT, "remote"), 0.0)
    assert set(estimates(core).values()) == {(1000, 500, 550)}
    core.handle(BlocksStored("b", PROMPT[:6], "cpu"), 0.0)
    assert estimates(core)["b"] == (1000, 1000 - 18 - 200, 50 + 218)
    core.handle(BlocksRemoved("c", PROMPT, "remote"), 0.0)
    assert estimates(core) == {"a": (0, 0, 1050), "b": (600, 582, 468), "c": (0, 0, 1050)}
    core.check()


def test_a_shared_tier_outlives_the_instance_that_filled_it_and_its_resets():
    core = core_of("a", "b", shared_media=("remote",))
    core.handle(BlocksStored("a", PROMPT, "remote"), 0.0)
    core.handle(CacheCleared("a"), 0.0)
    core.handle(InstanceLost("a", 1, "gone"), 0.0)
    assert estimates(core) == {"b": (1000, 500, 550)}
    core.handle(InstanceJoined("c", 1, CAPACITY), 0.0)
    assert estimates(core)["c"] == (1000, 500, 550)
    core.check()


def test_where_everything_is_shared_load_decides():
    core = core_of("a", "b", "c", "d", shared_media=("cpu",))
    core.handle(BlocksStored("a", PROMPT, "cpu"), 0.0)
    busy = dispatched(core, request()).instance_id
    for turn in range(3):  # its pool has it, and its work is more than loading it elsewhere
        other = tuple(range(1000 * (turn + 1), 1000 * (turn + 1) + 80))
        core.handle(RequestArrived(Request(f"o{turn}", other, 8000, only=(busy,))), 1.0)
    placed = core.handle(RequestArrived(request("s")), 1.1)
    assert placed[0].instance_id != busy
    core.check()


def test_instances_that_serve_other_models_read_other_blocks():
    core = core_of("a", shared_media=("cpu",))
    core.handle(InstanceJoined("b", 1, CAPACITY, models=(ServedModel("other"),)), 0.0)
    core.handle(BlocksStored("a", PROMPT, "cpu"), 0.0)
    assert estimates(core) == {"a": (1000, 970, 80), "b": (0, 0, 1050)}


# Whatever is reported.

NAMES = ("", *TIERS, "cxl")
REPORTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from((BlocksStored, BlocksRemoved)), st.sampled_from("ab"), st.sampled_from(NAMES))
        .flatmap(lambda head: st.tuples(st.just(head), st.lists(st.integers(1, 10), min_size=1, max_size=6))),
        st.tuples(st.just((CacheCleared, "a", "")), st.just([])),
        st.tuples(st.just(("arrives", "a", "")), st.lists(st.integers(1, 10), max_size=6)),
    ),
    max_size=40,
)  # fmt: skip


@given(reports=REPORTS, shared=st.sampled_from([(), ("storage",), ("cpu", "cxl")]))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_the_view_is_that_of_a_plain_model_whatever_was_stored_removed_and_cleared(reports, shared):
    core = core_of("a", "b", shared_media=shared)
    copies: dict[str, set[tuple[str, int]]] = {"a": set(), "b": set(), "all": set()}  # of each: (tier, block)
    for turn, ((kind, instance_id, name), blocks) in enumerate(reports):
        tier = "remote" if name == "cxl" and kind is not CacheCleared else name  # the slowest stands for it
        where = copies["all" if name in shared and name else instance_id]
        if kind == "arrives":
            asked = Request(f"r{turn}", tuple(dict.fromkeys(blocks)), 1000)
            for command in core.handle(RequestArrived(asked), 1.0):
                if isinstance(command, Dispatch):
                    copies[command.instance_id] |= {("", block) for block in asked.blocks}
        elif kind is CacheCleared:
            core.handle(CacheCleared(instance_id), 1.0)
            copies[instance_id].clear()
        else:
            core.handle(kind(instance_id, tuple(blocks), name), 1.0)
            of_tier = {(tier, block) for block in blocks}
            where.update(of_tier) if kind is BlocksStored else where.difference_update(of_tier)
        core.check()
    for instance_id, view in core.instances.items():
        waiting = {block for attempt in view.waiting for block in attempt.request.blocks}
        for blocks in ((1, 2, 3), (5, 4, 3, 2, 1), tuple(range(10, 0, -1))):
            expected, pool = {}, True
            for block in blocks:
                tiers = {t for t, b in copies[instance_id] | copies["all"] if b == block}
                in_pool = ("", block) in copies[instance_id] or block in waiting
                pool = pool and in_pool
                slow = [t for t in TIERS if t in tiers]
                if not pool and not slow:
                    break
                place = "" if pool else slow[0]
                expected[place] = expected.get(place, 0) + 100
            estimate = view.estimate_ttft(Request("asked", blocks, 2000))
            found = {"": estimate.cached_tokens} if estimate.loads is None else {
                "": estimate.loads.pool_tokens, **dict(estimate.loads.tokens)
            }  # fmt: skip
            assert {tier: tokens for tier, tokens in found.items() if tokens} == expected
