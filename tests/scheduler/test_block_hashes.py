"""Chained block hashes: equal prefixes give equal leading hashes, and nothing else does."""

import random

import pytest

from dualmap.scheduler.blocks import hash_text, hash_tokens, hash_trace_ids, root_hash

RANDOM = random.Random(7)
TEXT = bytes(RANDOM.randrange(256) for _ in range(1000))


def test_hashes_are_the_same_in_every_process_and_release():
    assert hash_text(b"abcdefgh", 4) == (0x6497A96F53A89890, 0xBAD0708DDE8BABA2)
    assert hash_tokens([1, 2], 1) == (0xDB02334E96D65708, 0xC065329D4E05682C)
    assert hash_trace_ids([1, 2]) == (0x2FBC593564DB792E, 0xC5526E5481D03C88)
    assert root_hash(b"model") == 0x72347B00C5CD9F16


@pytest.mark.parametrize(
    ("length", "blocks"), [(0, 0), (1, 1), (99, 1), (100, 1), (101, 1), (199, 1), (200, 2), (999, 9)]
)
def test_a_rest_shorter_than_a_block_is_left_out_unless_it_is_all_there_is(length: int, blocks: int):
    assert len(hash_text(TEXT[:length], 100)) == blocks


@pytest.mark.parametrize("shared", [0, 1, 99, 100, 101, 500, 999])
def test_two_texts_share_exactly_the_blocks_of_their_common_prefix(shared: int):
    other = TEXT[:shared] + bytes([TEXT[shared] ^ 1]) + TEXT[shared + 1 :]
    equal = [a == b for a, b in zip(hash_text(TEXT, 100), hash_text(other, 100), strict=True)]
    assert equal == [True] * (shared // 100) + [False] * (10 - shared // 100)


def test_a_block_with_other_blocks_before_it_has_another_hash():
    assert hash_trace_ids([1, 3])[1] != hash_trace_ids([2, 3])[1]
    assert hash_text(b"aaaabbbb", 4)[1] != hash_text(b"ccccbbbb", 4)[1]


@pytest.mark.parametrize("scope", [(), (b"model-b", b""), (b"model-a", b"salt"), (b"", b"model-a")])
def test_nothing_is_shared_across_scopes(scope: tuple[bytes, ...]):
    ours = hash_text(TEXT, 100, parent=root_hash(b"model-a", b""))
    theirs = hash_text(TEXT, 100, parent=root_hash(*scope))
    assert not set(ours) & set(theirs)


@pytest.mark.parametrize(
    ("length", "ends"), [(0, ()), (30, (30,)), (100, (100,)), (130, (100, 130)), (250, (100, 200, 250))]
)
def test_a_block_ends_where_a_whole_part_ends(length: int, ends: tuple[int, ...]):
    parent, start, expected = 0, 0, []
    for end in ends:
        (parent,) = hash_text(TEXT[start:end], 1000, parent)
        expected.append(parent)
        start = end
    assert hash_text(TEXT[:length], 100, whole=True) == tuple(expected)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("length", [0, 1, 5, 9, 10, 11, 15, 25, 26])
def test_what_stands_before_a_text_is_hashed_as_if_it_were_part_of_it(length: int, whole: bool):
    text = bytes(range(length))
    apart = hash_text(text, 10, 7, whole=whole, before=b"user:")
    assert apart == hash_text(b"user:" + text, 10, 7, whole=whole)


def test_a_chat_keeps_every_block_of_its_last_turn_as_it_grows():
    opening = hash_text(TEXT[:30], 100, whole=True)
    last: tuple[int, ...] = ()
    for length in (130, 260, 700, 1000):
        hashes = opening + hash_text(TEXT[30:length], 100, opening[-1])
        assert hashes[: len(last)] == last
        assert len(hashes) > len(last)
        last = hashes


def test_token_ids_share_the_blocks_of_their_common_prefix():
    tokens = [RANDOM.randrange(150_000) for _ in range(64)]
    changed = [*tokens[:40], tokens[40] + 1, *tokens[41:]]
    ours, theirs = hash_tokens(tokens, 16), hash_tokens(changed, 16)
    assert len(ours) == 4
    assert [a == b for a, b in zip(ours, theirs, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize(("length", "blocks"), [(0, 0), (15, 0), (16, 1), (31, 1), (32, 2)])
def test_token_ids_without_a_whole_block_have_no_hash(length: int, blocks: int):
    assert len(hash_tokens(range(length), 16)) == blocks


def test_trace_ids_of_any_size_are_one_block_each():
    ids = [0, 1, 2**63, 2**64 - 1, 17]
    hashes = hash_trace_ids(ids)
    assert len(set(hashes)) == len(ids)
    assert all(0 <= h < 2**64 for h in hashes)
    assert hash_trace_ids(ids[:3]) == hashes[:3]
