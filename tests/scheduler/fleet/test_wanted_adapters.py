"""wanted_adapters.py: what each pool's instances shall have, by hand-made calls, the time told by hand."""

import pytest

from dualmap.scheduler.fleet import wanted_adapters
from dualmap.scheduler.fleet.wanted_adapters import LEASE_S, AdapterBoard, WantedAdapters

NOW = 100.0


@pytest.fixture
def board() -> AdapterBoard:
    return AdapterBoard(10)


def test_one_at_a_time_changes_a_pool_and_each_pool_has_its_own(board):
    assert board.begin("", "g0-1", NOW) == WantedAdapters()
    assert board.begin("", "g0-1", NOW) is not None
    assert board.begin("", "g1-1", NOW) is None
    assert board.begin("b", "g1-1", NOW) is not None
    board.end("", "g1-1")
    assert board.begin("", "g1-1", NOW) is None
    board.end("", "g0-1")
    assert board.begin("", "g1-1", NOW) is not None


def test_who_never_ends_a_change_keeps_the_others_out_for_a_while_only(board):
    board.begin("", "g0-1", NOW)
    assert board.begin("", "g1-1", NOW + LEASE_S - 1) is None
    assert board.begin("", "g1-1", NOW + LEASE_S) is not None
    board.end("", "g0-1")
    assert board.begin("", "g0-2", NOW + LEASE_S) is None


def test_instances_of_the_pool_are_told_what_they_do_not_know(board):
    assert board.news("", 0) is None
    assert board.want("", "sql", b"{}")
    wanted = board.news("", 0)
    assert wanted.loads == (("sql", b"{}"),)
    assert board.news("", wanted.version) is None
    assert board.news("b", 0) is None
    board.want("", "sql", b"")
    assert board.news("", wanted.version).loads == (("sql", b""),)


def test_names_are_bounded_and_what_was_unloaded_goes_first(board, monkeypatch):
    monkeypatch.setattr(wanted_adapters, "MAX_NAMES", 2)
    assert board.want("", "a", b"{}")
    assert board.want("", "b", b"")
    assert board.want("", "c", b"{}")
    assert dict(board.news("", 0).loads) == {"a": b"{}", "c": b"{}"}
    assert not board.want("", "d", b"{}")
    assert board.want("", "c", b"{2}")


def test_what_a_fleet_before_this_one_told_is_asked_for_and_taken_over_once():
    before = AdapterBoard(10)
    before.want("", "a", b"{}")
    before.want("", "b", b"{}")
    known = before.news("", 0)
    board = AdapterBoard(1000)
    assert board.asks(known.version)
    assert not board.asks(0)
    board.want("", "b", b"")
    board.adopt("", known)
    wanted = board.news("", 0)
    assert dict(wanted.loads) == {"a": b"{}", "b": b""}
    board.adopt("", known)
    assert board.news("", wanted.version) is None
    assert not board.asks(wanted.version)
    board.adopt("", wanted)
    assert board.news("", wanted.version) is None


def test_who_remembers_what_is_wanted_brings_it_to_the_next_board():
    before = AdapterBoard(10)
    assert before.exchange({}) == {}
    before.want("", "a", b"{}")
    before.want("other", "b", b"{}")
    remembered = before.exchange({})
    assert before.exchange(remembered) == {}
    board = AdapterBoard(1000)
    board.want("", "c", b"{}")
    now = board.exchange(remembered)
    assert {pool: dict(wanted.loads) for pool, wanted in now.items()} == {
        "": {"a": b"{}", "c": b"{}"},
        "other": {"b": b"{}"},
    }
    assert board.exchange(now) == {}
