"""Which earlier turn a prompt continues."""

import pytest

from scheduler.policies import conversations
from scheduler.policies.conversations import Conversations

FIRST_TURN = (0, "")


@pytest.mark.parametrize(
    ("earlier", "later", "depth"),
    [
        ((1, 2, 3), (1, 2, 3, 4), 3),
        ((1, 2, 3), (1, 2, 4, 5), 2),  # the last block of the earlier turn was a short one
        ((1, 2, 3), (1, 2, 3), 3),
        ((1, 2, 3), (7, 2, 3), 0),
        ((1, 2, 3), (), 0),
    ],
)
def test_a_prompt_continues_the_turn_whose_blocks_it_begins_with(earlier, later, depth: int):
    known = Conversations()
    known.note(earlier, "a")
    assert known.earlier_turn(later) == ((depth, "a") if depth else FIRST_TURN)


def test_what_many_different_prompts_begin_with_is_no_turn():
    known = Conversations()
    for chat in range(3):  # after two, it may still be one that was asked something else
        assert known.earlier_turn((1, 2, 100 + chat)) == (FIRST_TURN if chat == 0 else (2, "a"))
        known.note((1, 2, 100 + chat), "a")
    assert known.earlier_turn((1, 2, 999)) == FIRST_TURN
    assert known.earlier_turn((1, 2, 101, 201)) == (3, "a")  # one of those chats goes on


def test_a_crowd_is_counted_by_its_different_prompts():
    known = Conversations()
    for _ in range(9):
        known.note((1, 2, 3), "a")
    assert known.earlier_turn((1, 2, 4)) == (2, "a")


def test_a_conversation_is_where_its_last_turn_ran():
    known = Conversations()
    known.note((1, 2), "a")
    known.note((1, 2, 3), "b")
    assert known.earlier_turn((1, 2, 3, 4)) == (3, "b")
    assert known.earlier_turn((1, 2, 4)) == (2, "b")


def test_what_ran_last_at_an_instance_that_is_gone_continues_nowhere():
    known = Conversations()
    known.note((1, 2), "a")
    known.note((11, 12), "b")
    known.forget("a")
    assert known.earlier_turn((1, 2, 3)) == FIRST_TURN
    assert known.earlier_turn((11, 12, 13)) == (2, "b")


def test_the_least_recent_turn_is_forgotten_first_its_tail_before_its_root(monkeypatch):
    monkeypatch.setattr(conversations, "MAX_BLOCKS", 4)
    known = Conversations()
    known.note((1, 2, 3), "a")
    known.note((11, 12), "b")
    assert known.earlier_turn((1, 2, 3)) == (2, "a")
    assert known.earlier_turn((11, 12)) == (2, "b")
