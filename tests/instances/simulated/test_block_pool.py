"""The KV block pool: by cases, and against random use."""

from collections import Counter, OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dualmap.instances.simulated.block_pool import Block, BlockPool


def stored(pool: BlockPool, *hashes: int) -> list[Block]:
    """Blocks with this content, held once."""
    blocks = pool.allocate(len(hashes))
    assert blocks is not None
    for block, block_hash in zip(blocks, hashes, strict=True):
        pool.store(block, block_hash)
    return blocks


def hits(pool: BlockPool, *hashes: int) -> int:
    return len(pool.match(hashes))


def test_only_the_leading_cached_blocks_match() -> None:
    pool = BlockPool(4)
    stored(pool, 1, 2, 4)
    assert (hits(pool, 1, 2, 3, 4), hits(pool, 2), hits(pool, 3)) == (2, 1, 0)


def test_released_blocks_can_be_hit_until_their_room_is_needed() -> None:
    pool = BlockPool(2)
    pool.release(stored(pool, 1, 2))
    assert pool.free_blocks == 2
    assert hits(pool, 1, 2) == 2
    pool.allocate(2)
    assert hits(pool, 1, 2) == 0


def test_never_used_blocks_are_taken_before_cached_ones() -> None:
    pool = BlockPool(3)
    pool.release(stored(pool, 1, 2))
    pool.allocate(1)
    assert hits(pool, 1, 2) == 2


def test_the_tail_of_a_prefix_is_evicted_before_its_beginning() -> None:
    pool = BlockPool(3)
    pool.release(stored(pool, 1, 2, 3))
    pool.allocate(1)
    assert hits(pool, 1, 2, 3) == 2


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    pool = BlockPool(2)
    pool.release(stored(pool, 1))
    pool.release(stored(pool, 2))
    used_again = pool.match([1])
    pool.hold(used_again)
    pool.release(used_again)
    pool.allocate(1)
    assert (hits(pool, 1), hits(pool, 2)) == (1, 0)


def test_held_blocks_are_never_given_away() -> None:
    pool = BlockPool(2)
    held = stored(pool, 1)
    assert pool.allocate(2) is None
    assert pool.free_blocks == 1
    assert pool.match([1]) == held


def test_a_shared_block_is_free_only_when_all_have_released_it() -> None:
    pool = BlockPool(1)
    shared = stored(pool, 1)
    pool.hold(shared)
    pool.release(shared)
    assert pool.free_blocks == 0
    pool.release(shared)
    assert pool.free_blocks == 1


def test_of_two_equal_blocks_the_first_is_hit() -> None:
    pool = BlockPool(2)
    first, second = stored(pool, 1), stored(pool, 1)
    assert pool.match([1]) == first
    pool.release(second)
    pool.allocate(1)
    assert pool.match([1]) == first


def test_the_cache_is_forgotten_only_while_nothing_is_held() -> None:
    pool = BlockPool(2)
    held = stored(pool, 1)
    assert not pool.reset()
    assert hits(pool, 1) == 1
    pool.release(held)
    assert pool.reset()
    assert hits(pool, 1) == 0
    assert pool.free_blocks == 2


# The tier behind the pool.


def test_without_a_tier_nothing_is_read_back() -> None:
    pool = BlockPool(2)
    stored(pool, 1, 2)
    assert pool.match_offloaded([1, 2]) == 0


def test_each_block_is_written_through_when_it_is_computed() -> None:
    pool = BlockPool(4, 10)
    blocks = pool.allocate(2)
    assert blocks is not None
    pool.store(blocks[0], 1)
    assert pool.match_offloaded([1, 2]) == 1
    pool.store(blocks[1], 2)
    assert pool.match_offloaded([1, 2]) == 2


def test_what_the_pool_has_evicted_can_be_read_back() -> None:
    pool = BlockPool(2, 10)
    pool.release(stored(pool, 1, 2))
    pool.release(stored(pool, 3, 4))
    assert hits(pool, 1, 2) == 0
    assert pool.match_offloaded([1, 2]) == 2


@pytest.mark.parametrize(("asked", "found"), [((1, 2, 3), 3), ((1, 2, 9, 3), 2), ((9, 1, 2), 0), ((2, 3), 2), ((), 0)])
def test_only_the_leading_blocks_of_the_tier_match(asked: tuple[int, ...], found: int) -> None:
    pool = BlockPool(8, 10)
    stored(pool, 1, 2, 3)
    assert pool.match_offloaded(asked) == found


def test_the_tier_holds_no_more_than_its_capacity_and_drops_the_least_recently_used() -> None:
    pool = BlockPool(8, 4)
    pool.release(stored(pool, 1, 2))
    pool.release(stored(pool, 3, 4))
    assert pool.match_offloaded([1, 2]) == 2  # and they are its most recent ones now
    pool.release(stored(pool, 5))
    assert len(pool._offloaded) == 4
    assert (pool.match_offloaded([3]), pool.match_offloaded([4])) == (1, 0)  # the tail goes before its beginning
    assert pool.match_offloaded([1, 2]) == 2


def test_of_what_was_read_back_the_tail_goes_before_its_beginning() -> None:
    pool = BlockPool(8, 3)
    pool.release(stored(pool, 1, 2, 3))
    pool.match_offloaded([1, 2, 3])
    pool.release(stored(pool, 4))
    assert pool.match_offloaded([1, 2, 3]) == 2


def test_a_block_that_is_computed_again_is_in_the_tier_once() -> None:
    pool = BlockPool(2, 10)
    for _ in range(3):
        pool.release(stored(pool, 1, 2))
    assert sorted(pool._offloaded) == [1, 2]


def test_a_reset_forgets_the_tier_too() -> None:
    pool = BlockPool(2, 10)
    held = stored(pool, 1)
    assert not pool.reset()
    assert pool.match_offloaded([1]) == 1
    pool.release(held)
    assert pool.reset()
    assert pool.match_offloaded([1]) == 0


def test_pools_that_share_a_tier_read_what_the_other_has_computed() -> None:
    shared: OrderedDict[int, None] = OrderedDict()
    first, second = BlockPool(4, 3, shared), BlockPool(4, 3, shared)
    stored(first, 1, 2)
    assert hits(second, 1, 2) == 0
    assert second.match_offloaded([1, 2]) == 2
    stored(second, 3, 4)
    assert len(shared) == 3


class PoolUse(RuleBasedStateMachine):
    """Requests that take, store and give back blocks in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(8, 12)
        self.tables: list[list[Block]] = []
        self.ever: set[int] = set()  # computed since the last reset

    @rule(prefix=st.integers(0, 2), length=st.integers(1, 6))
    def start(self, prefix: int, length: int) -> None:
        hashes = [prefix * 10 + i for i in range(length)]
        found = self.pool.match(hashes)
        assert [block.block_hash for block in found] == hashes[: len(found)]
        missing = length - len(found)
        fits = missing <= self.pool.free_blocks - self.pool.free_among(found)
        if not fits:
            return
        self.pool.hold(found)
        blocks = self.pool.allocate(missing)
        assert blocks is not None
        assert all(block.block_hash is None for block in blocks)
        read_back = self.pool.match_offloaded(hashes[len(found) :])
        assert set(hashes[len(found) : len(found) + read_back]) <= self.ever
        for block, block_hash in zip(blocks, hashes[len(found) :], strict=True):
            self.pool.store(block, block_hash)
        self.ever.update(hashes)
        self.tables.append(found + blocks)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.tables:
            self.pool.release(self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1))))

    @rule()
    def reset(self) -> None:
        assert self.pool.reset() == (not self.tables)
        if not self.tables:
            self.ever.clear()
            assert not self.pool._offloaded

    @invariant()
    def references_equal_uses(self) -> None:
        uses = Counter(block for table in self.tables for block in table)
        assert all(block.references == count for block, count in uses.items())
        assert self.pool.free_blocks == self.pool.capacity - len(uses)

    @invariant()
    def the_tier_is_bounded_and_has_what_the_pool_has_until_it_is_full(self) -> None:
        tier = self.pool._offloaded
        assert len(tier) <= 12
        assert self.ever.issuperset(tier)
        assert len(tier) == 12 or self.pool._cached.keys() <= tier.keys()

    @invariant()
    def no_table_uses_a_block_twice(self) -> None:
        assert all(len(set(table)) == len(table) for table in self.tables)


PoolUse.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
test_any_use_conserves_blocks = PoolUse.TestCase
