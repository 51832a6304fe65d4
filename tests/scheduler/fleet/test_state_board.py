"""What gateways learn of instances' state, told to each of them by Fleet. Without Fleet's process."""

import pytest

from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.fleet import state_board
from dualmap.scheduler.fleet.fleet_core import FleetCore
from dualmap.scheduler.fleet.gateway_link import GatewayLink
from dualmap.scheduler.fleet.state_board import StateBoard, StateHome

NOW = 100.0
FIRST = StateHome("resp_1", "a", "")
SECOND = StateHome("resp_2", "b", "")


@pytest.fixture
def board() -> StateBoard:
    return StateBoard(1)


def fleet(first_number: int = 1) -> FleetCore:
    return FleetCore((), {"": SchedulerConfig()}, NOW, first_number)


def sync(fleet: FleetCore, link: GatewayLink) -> tuple[StateHome, ...]:
    news = fleet.sync(link.report((), {}), NOW)
    link.hear(news)
    return news.states.homes if news.states else ()


def test_each_gateway_is_told_once_and_a_new_one_all_there_is():
    core, one, other = fleet(), GatewayLink("g0"), GatewayLink("g1")
    sync(core, other)
    one.note_states([FIRST])
    sync(core, one)
    assert sync(core, other) == (FIRST,)
    one.note_states([SECOND])
    sync(core, one)
    assert sync(core, other) == (SECOND,)
    assert sync(core, other) == ()
    assert sync(core, GatewayLink("g0")) == (FIRST, SECOND)


def test_what_was_not_answered_is_told_again():
    link = GatewayLink("g0")
    link.note_states([FIRST])
    link.report((), {})
    link.note_states([SECOND])
    assert link.report((), {}).states == (FIRST, SECOND)
    core = fleet()
    sync(core, link)
    assert link.report((), {}).states == ()
    assert sync(core, GatewayLink("g1")) == (FIRST, SECOND)


def test_a_fleet_that_does_not_know_what_a_gateway_has_heard_asks_for_all_of_it():
    link = GatewayLink("g0")
    link.note_states([FIRST])
    sync(fleet(), link)
    assert not link.tell_states
    successor = fleet(first_number=1000)
    assert sync(successor, link) == ()
    assert link.tell_states
    link.note_states([FIRST])
    assert sync(successor, link) == (FIRST,)
    assert not link.tell_states


def test_as_much_is_told_at_once_as_one_message_should_hold(board, monkeypatch):
    monkeypatch.setattr(state_board, "MAX_TOLD", 2)
    homes = [StateHome(f"resp_{i}", "a", "") for i in range(5)]
    board.put(homes)
    heard, told = 0, []
    while (news := board.news(heard)) is not None:
        assert len(news.homes) <= 2
        heard = news.number
        told += news.homes
    assert told == homes


def test_the_one_learned_longest_ago_goes(board, monkeypatch):
    monkeypatch.setattr(state_board, "MAX_STATES", 2)
    third = StateHome("resp_3", "a", "")
    board.put([FIRST, SECOND, third])
    assert board.news(0).homes == (SECOND, third)


def test_an_id_that_is_made_again_moves_but_never_to_another_owner(board):
    mine = StateHome("resp_1", "a", "mine")
    board.put([mine])
    board.put([mine._replace(owner="theirs", instance_id="b")])
    assert board.news(0).homes == (mine,)
    board.put([mine._replace(instance_id="b")])
    assert board.news(0).homes == (mine._replace(instance_id="b"),)
