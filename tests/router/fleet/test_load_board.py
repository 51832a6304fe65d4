"""What each gateway is told of the others' bookings, on a hand-moved clock."""

import pytest

from dualmap.router.fleet.load_board import SILENT_S, LoadBoard
from dualmap.router.fleet.state import GatewayReport, PoolTotals
from dualmap.scheduler.events import InstanceLoad


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock) -> LoadBoard:
    return LoadBoard(clock)


def load(instance_id: str, running: int) -> InstanceLoad:
    return InstanceLoad(instance_id, running, 10 * running, 0, 100 * running)


def test_a_gateway_alone_hears_of_nobody(board):
    board.put(GatewayReport("g0", loads=(load("a", 1),)))
    assert board.others("g0", 0)[0] is None


def test_each_hears_the_sum_of_what_the_others_have(board):
    board.put(GatewayReport("g0", loads=(load("a", 1),)))
    board.put(GatewayReport("g1", loads=(load("a", 2), load("b", 5))))
    board.put(GatewayReport("g2", loads=(load("a", 4),)))
    others, _ = board.others("g0", 0)
    assert others.loads == (load("a", 6), load("b", 5))
    assert board.loads() == {"a": load("a", 7), "b": load("b", 5)}


def test_a_report_replaces_the_one_before(board):
    board.put(GatewayReport("g0"))
    board.put(GatewayReport("g1", loads=(load("a", 2),)))
    board.put(GatewayReport("g1", loads=()))
    assert board.others("g0", 0)[0].loads == ()


def test_what_is_told_says_how_old_the_oldest_of_it_is(board, clock):
    board.put(GatewayReport("g1"))
    clock.now += 0.25
    board.put(GatewayReport("g2"))
    clock.now += 0.5
    assert board.others("g0", 0)[0].age_s == 0.75


def test_a_silent_gateway_counts_no_more(board, clock):
    board.put(GatewayReport("g0"))
    board.put(GatewayReport("g1", loads=(load("a", 2),)))
    clock.now += SILENT_S + 0.1
    board.put(GatewayReport("g0"))
    assert board.others("g0", 0)[0] is None
    assert [gateway.gateway_id for gateway in board.gateways()] == ["g0"]


def test_prompts_are_told_once_to_each_of_the_others_in_order(board):
    board.put(GatewayReport("g0"))
    _, heard = board.others("g1", 0)
    first, second = ("a", (1, 2)), ("b", (3,))
    board.put(GatewayReport("g0", sent=(first, second)))
    board.put(GatewayReport("g1", sent=(("a", (9,)),)))
    others, heard = board.others("g1", heard)
    assert others.sent == (first, second)
    assert board.others("g1", heard)[0].sent == ()


def test_a_gateway_that_has_heard_nothing_yet_is_not_told_the_past(board):
    board.put(GatewayReport("g0", sent=(("a", (1,)),)))
    assert board.others("new", 0)[0].sent == ()


def test_totals_go_on_over_the_restart_of_a_gateway(board):
    for arrived in (5, 8, 2, 3):  # restarted after 8
        board.put(GatewayReport("g0", totals={"": PoolTotals(arrived, 10 * arrived, arrived, 0)}))
    board.put(GatewayReport("g1", totals={"": PoolTotals(7, 70, 0, 7, 4, 3)}))
    board.put(GatewayReport("g1", totals={"": PoolTotals(9, 90, 0, 9, 5, 4)}))
    arrived = (8 - 5) + 3 + (9 - 7)  # what a gateway had when it was first heard of may be long ago
    assert board.totals() == {"": PoolTotals(arrived, 10 * arrived, 6, 2, 1, 1)}
