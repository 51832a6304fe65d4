"""untold.py: where several gateways answer each other in time, nobody starts before the others know of it. A token is a
millisecond."""

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.commands import Dispatch, TellOthers
from dualmap.scheduler.events import GatewayLoads, InstanceLoad
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.untold import SHORT_S, UNTOLD_SHARE

SOON_S = 0.002
LONG = 3000
MOST_S = UNTOLD_SHARE * 5.0  # of the default objective
SHORT = int(SHORT_S * 1000) - 1
NOTHING = InstanceLoad("a", 0, 0, waiting_tokens=0, kv_tokens=0)
FREE = {"recompute_price_idle": 0.0, "recompute_price_busy": 0.0}


def answer(core, *loads: InstanceLoad, told_s: float | None = SOON_S):
    """The other gateways have heard what was said told_s ago, and say what they have."""
    core.now += SOON_S
    return core.send(GatewayLoads(loads or (NOTHING,), told_s=told_s))


def among_others(script, *instance_ids: str, **config):
    core = script(*instance_ids, **config)
    assert answer(core) == []
    return core


def test_a_long_prompt_starts_when_the_others_know_of_it(script):
    core = among_others(script, "a")
    assert core.arrive("r", LONG) == [TellOthers()]
    assert core.core.own_loads(core.now)[0].waiting_tokens == LONG
    dispatch, tell = answer(core)
    assert (dispatch.request_id, tell) == ("r", TellOthers())  # that it has started


def test_an_answer_to_what_was_said_before_it_came_is_not_waited_for(script):
    core = among_others(script, "a")
    core.arrive("r", LONG)
    assert answer(core, told_s=2 * SOON_S) == []
    assert [c.request_id for c in answer(core) if isinstance(c, Dispatch)] == ["r"]


@pytest.mark.parametrize("told_s", [None, MOST_S / 2 + 0.001])
def test_nobody_waits_for_others_that_answer_late_or_not_at_all(script, told_s):
    core = script("a")
    answer(core, told_s=told_s)
    (dispatch,) = core.arrive("r", LONG)
    assert dispatch.request_id == "r"


def test_a_gateway_alone_waits_for_nobody(script):
    core = script("a")
    core.send(GatewayLoads((), told_s=SOON_S))
    (dispatch,) = core.arrive("r", LONG)
    assert dispatch.request_id == "r"


def test_a_short_prompt_is_in_nobodys_way(script):
    core = among_others(script, "a")
    (dispatch,) = core.arrive("r", SHORT)
    assert dispatch.request_id == "r"


def test_when_no_answer_comes_requests_start_and_the_next_do_not_wait(script):
    core = among_others(script, "a", "b")
    core.arrive("r0", LONG, core.prompt("a", "b"))
    core.now += MOST_S - 0.001
    assert core.tick() == []
    core.now += 0.001
    assert [c.request_id for c in core.tick()] == ["r0"]
    (dispatch,) = core.arrive("r1", LONG, core.prompt("b", "a"))
    assert dispatch.request_id == "r1"


@pytest.mark.parametrize(
    "there",
    [
        InstanceLoad("a", 0, 0, waiting_tokens=LONG, kv_tokens=0, waiting=1),
        InstanceLoad("a", 1, LONG, waiting_tokens=0, kv_tokens=0),
    ],
    ids=["waits", "runs"],
)
def test_who_turns_out_to_be_second_goes_elsewhere(script, there):
    core = among_others(script, "a", "b", **FREE)
    core.arrive("r", LONG, core.prompt("a", "b"))
    assert core.attempt("r").instance_id == "a"
    assert answer(core, there) == [TellOthers()]  # of its new place
    assert (core.attempt("r").instance_id, core.attempt("r").state) == ("b", AttemptState.WAITING)
    assert core.books("a") == (0, 0, 0, 0, 0)
    dispatch, _ = answer(core, there)
    assert (dispatch.request_id, dispatch.instance_id) == ("r", "b")


def test_who_is_second_and_stays_waits_without_more_ado(script):
    core = among_others(script, "a")
    core.arrive("r", LONG)
    busy = InstanceLoad("a", 1, LONG, waiting_tokens=0, kv_tokens=0)
    assert answer(core, busy) == []
    assert [c.request_id for c in answer(core) if isinstance(c, Dispatch)] == ["r"]


def test_who_came_a_while_ago_stays_where_it_was_placed(script):
    core = among_others(script, "a", "b", rebalancing=False, taking=False, **FREE)
    core.arrive("r", LONG, core.prompt("a", "b"))
    core.now += MOST_S
    answer(core, InstanceLoad("a", 1, 9000, waiting_tokens=0, kv_tokens=0))
    assert core.attempt("r").instance_id == "a"


def test_what_an_idle_instance_takes_waits_for_the_others_too(script):
    core = among_others(script, "a", "b", slo_aware=False, **FREE)
    shared = core.prompt("a", "b")
    core.arrive("now", 5000, shared)
    core.arrive("other", 1000, core.prompt("b", "a"))
    answer(core)
    core.arrive("r", LONG, shared)
    answer(core)
    assert core.attempt("r").instance_id == "a"
    assert core.finish("other") == [TellOthers()]
    assert (core.attempt("r").instance_id, core.attempt("r").reason) == ("b", ChoiceReason.TAKEN)
    assert [c.instance_id for c in answer(core) if isinstance(c, Dispatch)] == ["b"]


def test_others_that_wait_for_an_instance_are_told_when_it_has_room(script):
    core = among_others(script, "a", length_handicap=0.0)
    core.arrive("r", LONG)
    answer(core)
    answer(core, InstanceLoad("a", 0, 0, waiting_tokens=LONG, kv_tokens=0, waiting=1, head_age_s=1.0))
    assert core.first_token("r") == [TellOthers()]


def test_a_request_that_is_cancelled_meanwhile_is_forgotten(script):
    core = among_others(script, "a")
    core.arrive("r", LONG)
    core.cancel("r")
    assert core.arrive("r", LONG) == [TellOthers()]
    assert [c.request_id for c in answer(core) if isinstance(c, Dispatch)] == ["r"]
    assert core.books("a") == (0, 1, 0, LONG, LONG + 256)


def test_news_is_wanted_soon_while_a_request_waits(script):
    core = among_others(script, "a")
    assert not core.core.listens
    core.arrive("r0", LONG)
    answer(core)
    core.arrive("r1", LONG)
    answer(core)
    assert core.core.listens
    answer(core, told_s=None)
    assert not core.core.listens


def test_the_least_loaded_instance_is_found_where_the_others_are_heard_in_time(script):
    """c has a little less to do than d."""
    core = script(*"abcd", rebalancing=False, taking=False)
    loads = [
        InstanceLoad(i, 1, tokens, waiting_tokens=0, kv_tokens=0)
        for i, tokens in (("a", 20_000), ("b", 20_000), ("d", 1))
    ]
    answer(core, *loads)
    found = set()
    for i in range(20):
        core.arrive(f"r{i}", 10, core.prompt("a", "b", blocks=1, other_than=i))
        found.add(core.attempt(f"r{i}").instance_id)
        core.cancel(f"r{i}")
    assert found == {"c"}


def test_who_stays_behind_another_leaves_it_the_room(script):
    """What the other is about to send is longer and so has the later place, but it said first that it waits."""
    core = among_others(script, "a")
    core.arrive("r", 1000)
    first = InstanceLoad("a", 0, 0, waiting_tokens=LONG, kv_tokens=0, waiting=1, head_age_s=-2 * LONG / 1000)
    assert answer(core, first) == [TellOthers()]
    assert answer(core, InstanceLoad("a", 1, LONG, waiting_tokens=0, kv_tokens=0)) == []
    assert core.attempt("r").state is AttemptState.WAITING
