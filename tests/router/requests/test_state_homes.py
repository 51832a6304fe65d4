"""state_homes.py: what a gateway knows of what instances keep."""

from dualmap.router.requests import state_homes
from dualmap.router.requests.state_homes import StateHomes
from dualmap.scheduler.fleet.state_board import StateHome

FIRST = StateHome("resp_1", "i0", "mine")


def test_what_is_noted_is_found_by_its_owner_and_told_once():
    homes = StateHomes()
    assert homes.note(FIRST)
    assert not homes.note(FIRST)
    assert homes.find("resp_1", "mine") == "i0"
    assert homes.find("resp_1", "theirs") is None
    assert homes.take_news() == [FIRST]
    assert homes.take_news() == []


def test_what_was_heard_is_not_told_again_but_is_part_of_all():
    homes = StateHomes()
    homes.hear([FIRST])
    assert homes.find("resp_1", "mine") == "i0"
    assert (homes.take_news(), homes.all()) == ([], [FIRST])


def test_an_id_never_changes_hands():
    homes = StateHomes()
    homes.note(FIRST)
    assert not homes.note(FIRST._replace(owner="theirs", instance_id="i1"))
    assert homes.note(FIRST._replace(instance_id="i1"))
    assert homes.find("resp_1", "mine") == "i1"


def test_what_was_not_used_for_longest_goes(monkeypatch):
    monkeypatch.setattr(state_homes, "MAX_STATES", 2)
    homes = StateHomes()
    homes.note(FIRST)
    homes.note(FIRST._replace(state_id="resp_2"))
    homes.find("resp_1", "mine")
    homes.note(FIRST._replace(state_id="resp_3"))
    assert [home.state_id for home in homes.all()] == ["resp_1", "resp_3"]
