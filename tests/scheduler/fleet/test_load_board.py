"""What each gateway is told of the others' bookings, the time told by hand."""

import pytest

from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.load_board import SILENT_S, LoadBoard
from dualmap.scheduler.fleet.messages import GatewayReport, Sent
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.held_requests import HeldWork

NOW = 100.0


@pytest.fixture
def board() -> LoadBoard:
    return LoadBoard(1)


def load(instance_id: str, running: int) -> InstanceLoad:
    return InstanceLoad(instance_id, running, 10 * running, waiting_tokens=0, kv_tokens=100 * running)


def test_a_gateway_alone_hears_of_nobody(board):
    board.put(GatewayReport("g0", loads=(load("a", 1),)), NOW)
    assert board.others("g0", 0, NOW)[0] is None


def test_each_hears_the_sum_of_what_the_others_have(board):
    board.put(GatewayReport("g0", loads=(load("a", 1),)), NOW)
    board.put(GatewayReport("g1", loads=(load("a", 2), load("b", 5))), NOW)
    board.put(GatewayReport("g2", loads=(load("a", 4),)), NOW)
    others, _ = board.others("g0", 0, NOW)
    assert others.loads == (load("a", 6), load("b", 5))
    assert board.loads() == {"a": load("a", 7), "b": load("b", 5)}


def test_a_report_replaces_the_one_before(board):
    board.put(GatewayReport("g0"), NOW)
    board.put(GatewayReport("g1", loads=(load("a", 2),)), NOW)
    board.put(GatewayReport("g1", loads=()), NOW)
    assert board.others("g0", 0, NOW)[0].loads == ()


def test_what_is_told_says_how_old_the_oldest_of_it_is(board):
    board.put(GatewayReport("g1"), NOW)
    board.put(GatewayReport("g2"), NOW + 0.25)
    assert board.others("g0", 0, NOW + 0.75)[0].age_s == 0.75


def test_a_silent_gateway_counts_no_more(board):
    board.put(GatewayReport("g0"), NOW)
    board.put(GatewayReport("g1", loads=(load("a", 2),)), NOW)
    later = NOW + SILENT_S + 0.1
    board.put(GatewayReport("g0"), later)
    assert board.others("g0", 0, later)[0] is None
    assert [gateway.gateway_id for gateway in board.gateways(later)] == ["g0"]


def test_prompts_are_told_once_to_each_of_the_others_in_order(board):
    board.put(GatewayReport("g0"), NOW)
    _, heard = board.others("g1", 0, NOW)
    first, second = Sent("a", (1, 2), (7, 8, 9)), Sent("b", (3,))
    board.put(GatewayReport("g0", sent=(first, Sent("a", (), (7,)), second)), NOW)
    board.put(GatewayReport("g1", sent=(Sent("a", (9,)),)), NOW)
    others, heard = board.others("g1", heard, NOW)
    assert others.sent == (("a", (1, 2)), ("b", (3,)))  # what instances hold of them
    assert board.others("g1", heard, NOW)[0].sent == ()


def test_a_gateway_that_has_heard_nothing_yet_is_not_told_the_past(board):
    board.put(GatewayReport("g0", sent=(Sent("a", (1,)),)), NOW)
    assert board.others("new", 0, NOW)[0].sent == ()


def test_totals_go_on_over_the_restart_of_a_gateway(board):
    for arrived in (5, 8, 2, 3):  # restarted after 8
        board.put(GatewayReport("g0", totals={"": PoolTotals(arrived, 10 * arrived, arrived, slo_missed=0)}), NOW)
    board.put(GatewayReport("g1", totals={"": PoolTotals(7, 70, 0, slo_missed=7, tpot_kept=4, tpot_missed=3)}), NOW)
    board.put(GatewayReport("g1", totals={"": PoolTotals(9, 90, 0, slo_missed=9, tpot_kept=5, tpot_missed=4)}), NOW)
    arrived = (8 - 5) + 3 + (9 - 7)  # what a gateway had when it was first heard of may be long ago
    assert board.totals() == {"": PoolTotals(arrived, 10 * arrived, 6, slo_missed=2, tpot_kept=1, tpot_missed=1)}


def test_what_gateways_hold_is_summed_by_pool_until_they_say_otherwise(board):
    board.put(GatewayReport("g0", held={"": HeldWork(1, 100)}), NOW)
    board.put(GatewayReport("g1", held={"": HeldWork(2, 50), "b": HeldWork(1, 1)}), NOW)
    assert board.held() == {"": HeldWork(3, 150), "b": HeldWork(1, 1)}
    board.put(GatewayReport("g1"), NOW)
    assert board.held() == {"": HeldWork(1, 100)}
