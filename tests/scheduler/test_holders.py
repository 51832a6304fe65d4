"""Which instances hold a block: bits, kept in step with the caches they mirror."""

import random

import pytest

from dualmap.scheduler.holders import Holders
from dualmap.scheduler.instance.cache_view import CacheView

CHAT = (1, 2, 3, 4)


def named(holders: Holders, blocks: tuple[int, ...]) -> tuple[int, str]:
    """Depth of what is held of the blocks, and by whom."""
    depth, mask = holders.deepest(blocks)
    return depth, "".join(holders.instances(mask))


def test_each_instance_has_a_bit_of_its_own_and_a_free_one_is_used_again():
    holders = Holders()
    assert [holders.join(i) for i in "abc"] == [1, 2, 4]
    holders.leave(2)
    assert list(holders.instances(0b111)) == ["a", "c"]
    assert holders.join("d") == 2
    assert holders.join("e") == 8
    assert list(holders.instances(0b1111)) == ["a", "d", "c", "e"]


@pytest.mark.parametrize(
    ("held", "asked", "expected"),
    [
        ({}, CHAT, (0, "")),
        ({"a": CHAT}, (), (0, "")),
        ({"a": CHAT}, (9, 1, 2), (0, "")),
        ({"a": CHAT}, CHAT, (4, "a")),
        ({"a": CHAT[:2], "b": CHAT[:3]}, CHAT, (3, "b")),
        ({"a": CHAT[:3], "b": CHAT[:3]}, CHAT, (3, "ab")),
        ({"a": CHAT, "b": CHAT[:1], "c": CHAT}, CHAT, (4, "ac")),
        ({"a": CHAT, "b": CHAT[:1]}, (1, 7, 8), (1, "ab")),
    ],
)
def test_the_deepest_block_that_somebody_holds_names_its_holders(held, asked, expected):
    holders = Holders()
    for instance_id in "abc":
        CacheView(100, holders, holders.join(instance_id)).use(held.get(instance_id, ()))
    assert named(holders, asked) == expected


def test_a_prompt_that_waits_counts_as_held_as_long_as_it_waits():
    holders = Holders()
    waits, held = (CacheView(100, holders, holders.join(i)) for i in "ab")
    held.use(CHAT[:2])
    waits.expect(CHAT)
    assert named(holders, CHAT) == (4, "a")
    waits.unexpect(CHAT)
    assert named(holders, CHAT) == (2, "b")


def test_a_prompt_that_starts_where_it_waited_is_held_all_the_time():
    holders = Holders()
    view = CacheView(100, holders, holders.join("a"))
    view.expect(CHAT)
    view.use(CHAT)
    view.unexpect(CHAT)
    assert named(holders, CHAT) == (4, "a")
    view.clear()
    assert holders._masks == {}


@pytest.mark.parametrize("seed", range(10))
def test_the_masks_agree_with_the_caches_after_any_use(seed: int):
    rng = random.Random(seed)
    holders = Holders()
    views = {i: CacheView(12, holders, holders.join(i)) for i in "abc"}
    waiting: list[tuple[str, tuple[int, ...]]] = []
    for _ in range(600):
        instance_id = rng.choice("abc")
        view = views[instance_id]
        prompt = tuple(rng.randrange(3) * 100 + i for i in range(rng.randrange(9)))
        match rng.randrange(8):
            case 0 | 1 | 2:
                view.use(prompt)
            case 3 | 4:
                view.expect(prompt)
                waiting.append((instance_id, prompt))
            case 5 if waiting:
                instance_id, prompt = waiting.pop(rng.randrange(len(waiting)))
                views[instance_id].unexpect(prompt)
            case 6:
                view.drop(prompt[1:])
            case 7 if rng.random() < 0.1:
                view.clear()
        expected: dict[int, int] = {}
        for i, v in enumerate(views.values()):
            for block in v._held.keys() | v._expected.keys():
                expected[block] = expected.get(block, 0) | 1 << i
        assert holders._masks == expected
        assert all(len(v) <= 12 for v in views.values())
