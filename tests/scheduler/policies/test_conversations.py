"""Which earlier turn a prompt continues."""

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.policies import conversations
from dualmap.scheduler.policies.conversations import Conversations

FIRST_TURN = (0, "")


def prompt(*blocks: int, rest: int = 0) -> Request:
    """rest: tokens after the last block."""
    return Request("r", blocks, 512 * len(blocks) + rest)


@pytest.mark.parametrize(
    ("earlier", "later", "depth"),
    [
        ((1, 2, 3), (1, 2, 3, 4), 3),
        ((1, 2, 3), (1, 2, 4, 5), 2),  # the last block of the earlier turn was a short one
        ((1, 2, 3), (7, 2, 3), 0),
        ((1, 2, 3), (), 0),
    ],
)
def test_a_prompt_continues_the_turn_whose_blocks_it_begins_with(earlier, later, depth: int):
    known = Conversations()
    known.note(prompt(*earlier), "a")
    assert known.earlier_turn(prompt(*later)) == ((depth, "a") if depth else FIRST_TURN)


def test_what_many_different_blocks_follow_is_no_turn():
    known = Conversations()
    for chat in range(3):  # after two, it may still be one that was asked something else
        assert known.earlier_turn(prompt(1, 2, 100 + chat)) == (FIRST_TURN if chat == 0 else (2, "a"))
        known.note(prompt(1, 2, 100 + chat), "a")
    assert known.earlier_turn(prompt(1, 2, 999)) == FIRST_TURN
    assert known.earlier_turn(prompt(1, 2, 101, 201)) == (3, "a")  # one of those chats goes on


def test_the_same_block_again_is_no_other_block():
    known = Conversations()
    for _ in range(9):
        known.note(prompt(1, 2, 3), "a")
    assert known.earlier_turn(prompt(1, 2, 4)) == (2, "a")


def test_a_prompt_without_a_block_of_its_own_continues_what_it_is_longer_than():
    known = Conversations()
    known.note(prompt(1, 2, rest=100), "a")
    assert known.earlier_turn(prompt(1, 2, rest=101)) == (2, "a")
    assert known.earlier_turn(prompt(1, 2, rest=100)) == FIRST_TURN
    known.note(prompt(1, 2, rest=50), "a")
    assert known.earlier_turn(prompt(1, 2, rest=60)) == FIRST_TURN  # many end there, one of them is longer


def test_a_conversation_is_where_its_last_turn_ran():
    known = Conversations()
    known.note(prompt(1, 2), "a")
    known.note(prompt(1, 2, 3), "b")
    assert known.earlier_turn(prompt(1, 2, 3, 4)) == (3, "b")
    assert known.earlier_turn(prompt(1, 2, 4)) == (2, "b")


def test_what_ran_last_at_an_instance_that_is_gone_continues_nowhere():
    known = Conversations()
    known.note(prompt(1, 2), "a")
    known.note(prompt(11, 12), "b")
    known.forget("a")
    assert known.earlier_turn(prompt(1, 2, 3)) == FIRST_TURN
    assert known.earlier_turn(prompt(11, 12, 13)) == (2, "b")


def test_the_least_recent_turn_is_forgotten_first_its_tail_before_its_root(monkeypatch):
    monkeypatch.setattr(conversations, "MAX_BLOCKS", 4)
    known = Conversations()
    known.note(prompt(1, 2, 3), "a")
    known.note(prompt(11, 12), "b")
    assert known.earlier_turn(prompt(1, 2, 99)) == (2, "a")
    assert known.earlier_turn(prompt(1, 2, 3)) == (2, "a")  # 3 is forgotten
    assert known.earlier_turn(prompt(11, 12, 99)) == (2, "b")
