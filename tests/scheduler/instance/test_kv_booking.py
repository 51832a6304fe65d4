"""KV cache of running requests: what several share is booked once. Blocks hold 512 tokens, answers are of 256."""

import random

import pytest

from dualmap.scheduler.instance.kv_booking import KvBooking

CHAT = (1, 2, 3)
BRANCH = (1, 2, 7)


def test_a_shared_block_is_booked_once():
    kv = KvBooking()
    kv.book(CHAT, 512, 100)
    assert kv.tokens == 3 * 512 + 100
    assert kv.missing_tokens(BRANCH, 512) == 512
    kv.book(BRANCH, 512, 50)
    assert kv.tokens == 4 * 512 + 150
    kv.give_back(CHAT, 100)
    assert kv.tokens == 3 * 512 + 50
    kv.give_back(BRANCH, 50)
    assert kv.tokens == 0


def test_a_block_is_given_back_as_it_was_booked_whoever_was_the_first():
    kv = KvBooking()
    kv.book(CHAT, 512, 0)
    kv.book(CHAT, 300, 0)
    kv.give_back(CHAT, 0)
    assert kv.tokens == 3 * 512
    kv.book((9,), 300, 0)
    kv.give_back(CHAT, 0)
    assert kv.tokens == 300


@pytest.mark.parametrize("seed", range(10))
def test_what_is_booked_is_the_union_of_the_blocks_and_what_each_has_alone(seed: int):
    rng = random.Random(seed)
    kv = KvBooking()
    running = []
    for _ in range(400):
        if running and rng.random() < 0.5:
            kv.give_back(*running.pop(rng.randrange(len(running))))
        else:
            blocks = tuple(rng.randrange(3) * 100 + i for i in range(rng.randrange(6)))
            own = rng.randrange(600)
            kv.book(blocks, 512, own)
            running.append((blocks, own))
        union = {block for blocks, _ in running for block in blocks}
        assert kv.tokens == 512 * len(union) + sum(own for _, own in running)
        kv.check(running)
        asked = tuple(rng.randrange(3) * 100 + i for i in range(6))
        assert kv.missing_tokens(asked, 100) == 100 * len(set(asked) - union)


# As the core books.


def test_requests_that_share_a_prefix_take_it_once(script, empty_books):
    core = script("a", release_window_s=100.0)
    blocks = core.prompt("a", blocks=4)
    core.arrive("r0", 2100, blocks=blocks)
    core.arrive("r1", 2200, blocks=blocks)
    core.arrive("r2", 1100, blocks=blocks[:2])
    assert core.view("a").booked_kv_tokens == 4 * 512 + 52 + 152 + 76 + 3 * 256
    for request_id in ("r0", "r2", "r1"):
        core.finish(request_id)
    assert core.books("a") == empty_books


@pytest.mark.parametrize(("kv_tokens", "starts"), [(2304 + 408, True), (2304 + 407, False)])
def test_room_is_needed_only_for_what_is_not_there_already(script, kv_tokens: int, starts: bool):
    core = script("a", capacity={"kv_tokens": kv_tokens}, release_window_s=100.0)
    blocks = core.prompt("a", blocks=4)
    core.arrive("r0", 2048, blocks=blocks)
    assert bool(core.arrive("r1", 2200, blocks=blocks)) is starts, "152 tokens of its own, and 256 of the answer"


def test_short_prompts_that_are_equal_take_no_less_than_nothing(script, empty_books):
    core = script("a", release_window_s=100.0)
    for i in range(4):
        core.arrive(f"r{i}", 10, blocks=(1,))  # a prompt shorter than a block is hashed whole
    assert core.view("a").booked_kv_tokens == 10 + 4 * 256
    for i in range(4):
        core.finish(f"r{i}")
    assert core.books("a") == empty_books


@pytest.mark.parametrize("first_to_end", ["r0", "r1"])
def test_estimates_of_a_block_that_differ_leave_nothing_behind(script, empty_books, first_to_end: str):
    core = script("a", release_window_s=100.0)
    core.arrive("r0", 2000, blocks=(1, 2, 3), block_tokens=400)
    core.arrive("r1", 2000, blocks=(1, 2, 3, 4), block_tokens=500)
    assert core.view("a").booked_kv_tokens == 3 * 400 + 500 + 800 + 0 + 2 * 256
    for request_id in (first_to_end, "r1" if first_to_end == "r0" else "r0"):
        core.finish(request_id)
    assert core.books("a") == empty_books
