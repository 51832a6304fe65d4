"""What an instance is believed to hold: bounded, prefix-closed, and corrected by reports."""

import random

import pytest

from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.instance.cache_view import USES_KEPT, CacheView

CHAT = (1, 2, 3, 4)
BRANCH = (1, 2, 7, 8)


def view_of(*prompts: tuple[int, ...], max_blocks: int = 100) -> CacheView:
    holders = Holders()
    view = CacheView(max_blocks, holders, holders.join("a"))
    for blocks in prompts:
        view.use(blocks)
    return view


@pytest.mark.parametrize(
    ("asked", "held"),
    [((), 0), ((1,), 1), (CHAT, 4), ((1, 2, 3, 4, 5), 4), (BRANCH, 2), ((9, 2, 3), 0), ((2, 3, 4), 3)],
)
def test_only_leading_blocks_count_as_cached(asked: tuple[int, ...], held: int):
    view = view_of(CHAT)
    assert view.cached_blocks(asked) == view.held_blocks(asked) == held


def test_one_that_keeps_less_from_now_on_holds_less_at_once_and_may_keep_more_again():
    view = view_of(CHAT, (11, 12, 13))
    view.resize(0)
    assert len(view) == 1
    view.resize(100)
    view.use(CHAT)
    assert view.held_blocks(CHAT) == 4
    view.check(())


def test_the_least_recently_used_prompt_goes_first_and_its_tail_before_its_root():
    view = view_of(CHAT, (11, 12, 13), max_blocks=7)
    view.use((21,))
    assert view.held_blocks(CHAT) == 3
    view.use((22, 23))
    assert view.held_blocks(CHAT) == 1
    assert view.held_blocks((11, 12, 13)) == 3


def test_use_makes_a_prompt_recent_again():
    view = view_of(CHAT, (11, 12, 13), max_blocks=7)
    view.use(CHAT)
    view.use((21, 22))
    assert view.held_blocks(CHAT) == 4
    assert view.held_blocks((11, 12, 13)) == 1


def test_a_shared_root_outlives_the_branches_that_hang_on_it():
    view = view_of(CHAT, BRANCH, max_blocks=6)
    view.use((1, 2, 9))
    assert view.held_blocks(CHAT) == 3
    assert view.held_blocks(BRANCH) == 4


def test_of_a_prompt_larger_than_the_cache_the_leading_blocks_are_held():
    view = view_of(tuple(range(50)), max_blocks=10)
    assert len(view) == 10
    assert view.held_blocks(tuple(range(50))) == 10


def test_size_is_bounded_and_what_is_held_is_closed_under_prefixes():
    rng = random.Random(1)
    view = view_of(max_blocks=40)
    used = []
    for _ in range(500):
        root = rng.randrange(4)
        prompt = tuple(root * 1000 + branch for branch in (0, *sorted(rng.sample(range(1, 30), rng.randrange(12)))))
        chained = hash_trace_ids(prompt)
        view.use(chained)
        used.append(chained)
        assert len(view) <= 40
    for chained in used:
        leading = view.held_blocks(chained)
        assert not any(view.held_blocks((block,)) for block in chained[leading:])


def test_a_view_holds_at_least_one_block():
    assert len(view_of(CHAT, max_blocks=0)) == 1


def test_blocks_of_waiting_prompts_are_expected_but_not_held():
    view = view_of()
    view.expect(CHAT)
    assert view.cached_blocks(BRANCH) == 2
    assert view.held_blocks(BRANCH) == 0
    assert len(view) == 0


def test_held_and_expected_blocks_join_to_one_prefix():
    view = view_of((1, 2))
    view.expect(CHAT)
    assert view.cached_blocks((1, 2, 3, 4, 5)) == 4


def test_a_block_is_expected_until_the_last_prompt_that_waits_with_it_is_gone():
    view = view_of()
    view.expect(CHAT)
    view.expect(BRANCH)
    view.unexpect(CHAT)
    assert view.cached_blocks(CHAT) == 2
    view.unexpect(BRANCH)
    assert view.cached_blocks(CHAT) == 0


def test_dropped_blocks_cut_the_prefix_where_they_were():
    view = view_of(CHAT, BRANCH)
    view.drop((3, 99))
    assert view.held_blocks(CHAT) == 2
    assert view.held_blocks(BRANCH) == 4
    view.use(CHAT)
    assert view.held_blocks(CHAT) == 4


def test_a_cleared_cache_holds_nothing_but_still_expects_what_waits():
    view = view_of(CHAT)
    view.expect(BRANCH)
    view.clear()
    assert len(view) == 0
    assert view.cached_blocks(BRANCH) == 4
    assert view.held_blocks(CHAT) == 0


def test_what_is_remembered_of_past_uses_is_bounded():
    view = view_of(max_blocks=10)
    for i in range(1000):
        view.use(CHAT)
        view.use(())
        view.use((100 + i % 3,))
    assert len(view._uses) <= (USES_KEPT + 1) * 10
    assert view._listed == sum(len(use.blocks) for use in view._uses)
    assert view.held_blocks(CHAT) == 4


def test_prompts_without_blocks_leave_nothing_to_remember():
    view = view_of()
    for _ in range(100):
        view.use(())
    assert not view._uses


@pytest.mark.parametrize("seed", range(20))
def test_evicts_as_a_plain_list_in_the_order_of_use_would(seed: int):
    rng = random.Random(seed)
    view = view_of(max_blocks=12)
    by_use: list[int] = []  # least recent first
    for _ in range(400):
        prompt = tuple(rng.randrange(4) * 100 + i for i in range(rng.randrange(15)))
        if rng.random() < 0.1:
            dropped = prompt[rng.randrange(3) :]
            view.drop(dropped)
            by_use = [block for block in by_use if block not in dropped]
        else:
            view.use(prompt)
            by_use = [block for block in by_use if block not in prompt] + list(reversed(prompt))
            by_use = by_use[-12:]
        assert view._held.keys() == set(by_use)


def test_a_cache_found_smaller_than_believed_gives_up_its_oldest_tail_at_once():
    view = view_of(CHAT, tuple(range(100, 196)), max_blocks=100)
    assert view.held_blocks(CHAT) == len(CHAT) == 4
    view.was_right(False)
    assert len(view) == 98
    assert view.held_blocks(CHAT) == 2
