"""Requests whose prompt one instance computes and another answers (scheduler/core/legs.py). A token is a millisecond.
To fetch 2,048 tokens takes 25 ms, as long as nothing else is known."""

from dataclasses import fields

import pytest

from dualmap.scheduler import InstanceCapacity, InstanceJoined, ServedModel
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.commands import Dispatch, FailStream, Reject, RejectReason
from dualmap.scheduler.events import FailureCause, RequestFinished, StreamContinued
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.instance.transfer_pace import FIRST_BASE_S, FIRST_SECONDS_PER_TOKEN
from dualmap.scheduler.request import BEFORE_ALL, Request
from dualmap.scheduler.role import Leg, Role

PROMPT = tuple(hash_trace_ids(range(4)))  # 2048 tokens
FETCH_S = FIRST_BASE_S + 2048 * FIRST_SECONDS_PER_TOKEN
ROLES = {"p": Role.PREFILL, "d": Role.DECODE, "b": Role.BOTH}


@pytest.fixture
def fleet(script):
    """Instances are named by their role: p1 prefills, d1 decodes, b1 does both."""

    def make(*instance_ids: str, **config):
        core = script(**{"min_prefill_leg_tokens": 512, **config})
        for instance_id in instance_ids:
            core.join(instance_id, role=ROLES[instance_id[0]])
        return core

    return make


def legs(commands) -> list[tuple[int, Leg, str]]:
    return [(c.attempt, c.leg, c.instance_id[0]) for c in commands if isinstance(c, Dispatch)]


def arrive(core, request_id: str = "r", tokens: int = 2048, **request):
    return core.arrive(request_id, tokens, blocks=PROMPT, **{"may_split": True, **request})


def test_a_request_is_computed_by_one_instance_and_answered_by_another(fleet, empty_books):
    core = fleet("p1", "p2", "d1", "d2")
    assert legs(arrive(core)) == [(1, Leg.PREFILL, "p")]
    core.now += 2.0
    (dispatch,) = core.prefill_done("r")
    assert legs([dispatch]) == [(2, Leg.DECODE, "d")]
    assert dispatch.queued_s == pytest.approx(0.0), "the prefill is no wait"
    assert dispatch.estimated_ttft_s == pytest.approx(2.0 + FETCH_S, abs=0.002)
    core.now += 0.1
    core.first_token("r", 2)
    core.finish("r", 2)
    assert all(core.books(i) == empty_books for i in core.core.instances)
    stats = core.core.stats
    assert (stats.arrived, stats.slo_kept, stats.retries) == (1, 1, 0)
    assert (stats.arrived_legs, stats.arrived_leg_tokens, stats.legs_kept, stats.legs_missed) == (1, 2048, 1, 0)
    core.core.check()


def test_what_a_prefill_books_is_its_work_and_one_token(fleet):
    core = fleet("p1", "d1")
    arrive(core, max_output_tokens=100)
    assert core.books("p1") == (0, 1, 0, 2048, 2049)
    core.prefill_done("r")
    assert core.books("p1") == (0, 0, 0, 0, 2048)
    assert core.books("d1") == (0, 1, 0, 0, 2148)


@pytest.mark.parametrize(
    ("request_fields", "instance_ids"),
    [
        ({"may_split": False}, "p1 d1"),
        ({"tokens": 511}, "p1 d1"),
        ({"only": ("d1",)}, "p1 d1"),
        ({}, "d1"),
        ({}, "d1 d2 b1"[:5]),
    ],
    ids=["one that cannot be split", "a short one", "one that names its instance", "no other", "nobody prefills"],
)
def test_it_runs_whole_where_it_cannot_be_split_or_need_not_be(fleet, request_fields, instance_ids):
    core = fleet(*instance_ids.split())
    assert legs(arrive(core, **request_fields)) == [(1, Leg.WHOLE, "d")]


def test_it_runs_whole_where_who_decodes_holds_nearly_all_of_the_prompt(fleet):
    core = fleet("p1", "d1", "d2")
    arrive(core)
    (decode,) = core.prefill_done("r")
    core.finish("r", 2)
    (whole,) = arrive(core, "next", 2048 + 500)
    assert (whole.leg, whole.instance_id) == (Leg.WHOLE, decode.instance_id)
    assert legs(arrive(core, "longer", 2048 + 600)) == [(1, Leg.PREFILL, "p")]


def test_an_instance_that_only_prefills_answers_nobody(fleet):
    core = fleet("p1", "p2")
    (rejected,) = arrive(core)
    assert isinstance(rejected, Reject)
    assert rejected.reason is RejectReason.NO_INSTANCE


def test_where_all_do_both_nothing_is_split(fleet):
    core = fleet("b1", "b2")
    assert legs(arrive(core)) == [(1, Leg.WHOLE, "b")]


def test_one_that_does_both_decodes_for_others(fleet):
    core = fleet("p1", "b1")
    assert legs(arrive(core)) in ([(1, Leg.PREFILL, "p")], [(1, Leg.PREFILL, "b")])
    assert legs(core.prefill_done("r")) == [(2, Leg.DECODE, "b")]


def test_models_have_legs_of_their_own(script):
    core = script(min_prefill_leg_tokens=512)
    for instance_id, role, model in (
        ("p1", Role.PREFILL, "chat"),
        ("d1", Role.DECODE, "chat"),
        ("b1", Role.BOTH, "code"),
        ("b2", Role.BOTH, "code"),
    ):
        core.join(instance_id, role=role, models=(ServedModel(model),))
    assert legs(arrive(core, "chat", model="chat")) == [(1, Leg.PREFILL, "p")]
    assert legs(arrive(core, "code", model="code")) == [(1, Leg.WHOLE, "b")]
    core.core.check()


def test_the_decode_leg_goes_before_all_that_waits(fleet):
    core = fleet("p1", "d1")
    arrive(core)
    core.arrive("long", 5000)
    core.arrive("waits", 5000, priority=-100)
    assert core.books("d1")[:2] == (1, 1)
    core.prefill_done("r")
    assert [a.request.id for a in core.view("d1").waiting] == ["r", "waits"]
    assert core.first_token("long")[0].request_id == "r"


def test_who_has_memory_and_least_to_do_decodes(fleet):
    core = fleet("p1", "d1", "d2", "d3")
    for number, instance_id in enumerate(("d1", "d1", "d2")):
        core.arrive(f"runs-{number}", 10, only=(instance_id,))
        core.first_token(f"runs-{number}")
    arrive(core)
    (decode,) = core.prefill_done("r")
    assert decode.instance_id == "d3"


def test_who_has_no_memory_is_passed_over(script):
    core = script(min_prefill_leg_tokens=512)
    core.join("p1", role=Role.PREFILL)
    core.join("d1", role=Role.DECODE, kv_tokens=2500)
    core.join("d2", role=Role.DECODE)
    core.arrive("small", 300, only=("d1",))
    core.first_token("small")
    for number in range(5):
        core.arrive(f"runs-{number}", 10, only=("d2",))
        core.first_token(f"runs-{number}")
    arrive(core, max_output_tokens=400)
    (decode,) = core.prefill_done("r")
    assert decode.instance_id == "d2"


def test_a_leg_differs_from_its_request_in_what_concerns_the_leg_alone():
    given = {
        "id": "r",
        "blocks": PROMPT,
        "prompt_tokens": 2048,
        "max_output_tokens": 7,
        "ttft_slo_s": 3.0,
        "priority": -2,
        "tenant": "t",
        "streams": False,
        "block_tokens": 500,
        "adapter": "sql",
        "timeout_s": 9.0,
        "only": ("p1",),
        "tpot_slo_s": 0.1,
        "key_blocks": PROMPT[:1],
        "session": 5,
        "stateful": True,
        "model": "m",
        "length_tokens": 3000,
        "goes_on_after": 4,
        "sent_tokens": 6,
        "may_split": True,
    }
    assert {field.name for field in fields(Request)} == given.keys() | {"leg", "revision"}
    request = Request(**given)
    prefill = {"leg": Leg.PREFILL, "streams": True, "max_output_tokens": 1, "tpot_slo_s": 0.0}
    decode = {"leg": Leg.DECODE, "priority": BEFORE_ALL, "revision": "a"}
    for leg, revision, differs in ((Leg.PREFILL, None, prefill), (Leg.DECODE, "a", decode)):
        made = request.leg_of(leg, revision)
        assert {name: getattr(made, name) for name in given | differs} == given | differs


# Failures.


def test_a_failed_prefill_runs_on_another_instance(fleet):
    core = fleet("p1", "p2", "d1")
    (first,) = arrive(core)
    (second,) = core.fail("r", 1)
    assert legs([second]) == [(2, Leg.PREFILL, "p")]
    assert second.instance_id != first.instance_id
    assert legs(core.fail("r", 2)) == [(3, Leg.WHOLE, "d")], "nobody is left who prefills"


def test_a_failed_decode_leg_begins_again_with_the_prompt_where_it_is_cached(fleet):
    core = fleet("p1", "p2", "d1", "d2")
    (prefill,) = arrive(core)
    (decode,) = core.prefill_done("r", 1)
    (again,) = core.fail("r", 2, FailureCause.ERROR)
    assert (again.leg, again.instance_id) == (Leg.PREFILL, prefill.instance_id)
    assert again.cached_tokens == 2047
    (other,) = core.prefill_done("r", 3)
    assert other.leg is Leg.DECODE
    assert other.instance_id != decode.instance_id


def test_completed_prefills_are_no_tries(fleet):
    core = fleet("p1", "d1", "d2", "d3", max_attempts=2)
    arrive(core)
    core.prefill_done("r", 1)
    (again,) = core.fail("r", 2, FailureCause.ERROR)
    assert again.last
    (decode,) = core.prefill_done("r", 3)
    assert decode.last
    (rejected,) = core.fail("r", 4, FailureCause.ERROR)
    assert rejected.reason is RejectReason.ATTEMPTS_EXHAUSTED


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("leg", [Leg.PREFILL, Leg.DECODE])
def test_a_request_whose_leg_was_refused_runs_whole_and_has_all_its_tries(fleet, leg, most):
    core = fleet("p1", "p2", "d1", "d2", max_attempts=most)
    (refused,) = arrive(core)
    if leg is Leg.DECODE:
        (refused,) = core.prefill_done("r", 1)
    (whole,) = core.fail("r", refused.attempt, FailureCause.LEG_REFUSED)
    assert whole.instance_id != refused.instance_id
    for tried in range(1, most):
        assert (whole.leg, whole.last) == (Leg.WHOLE, False)
        (whole,) = core.fail("r", refused.attempt + tried, FailureCause.LEG_REFUSED)
    assert (whole.leg, whole.last) == (Leg.WHOLE, True)
    (rejected,) = core.fail("r", whole.attempt, FailureCause.LEG_REFUSED)
    assert rejected.reason is RejectReason.ATTEMPTS_EXHAUSTED
    core.core.check()


def test_a_stream_that_is_cut_goes_on_whole(fleet):
    core = fleet("p1", "d1", "d2")
    arrive(core)
    core.prefill_done("r")
    core.first_token("r", 2)
    assert core.fail("r", 2, tokens_sent=3) == [FailStream("r", FailureCause.BROKEN)]
    rest = Request("r", PROMPT, 2100, may_split=True, goes_on_after=2, sent_tokens=52)
    assert legs(core.send(StreamContinued(rest, ("d1",)))) == [(3, Leg.WHOLE, "d")]


@pytest.mark.parametrize("happens", ["lost", "replaced"])
def test_what_waits_to_fetch_from_an_instance_that_is_gone_begins_again(fleet, happens):
    core = fleet("p1", "p2", "d1")
    (prefill,) = arrive(core)
    core.arrive("runs", 2000)
    core.arrive("full", 999_000)
    core.first_token("runs")
    core.prefill_done("r")
    gone = prefill.instance_id
    assert list(core.view(gone).booked.lent) == ["r"]
    if happens == "lost":
        commands = core.lose(gone)
    else:
        commands = core.send(InstanceJoined(gone, 2, InstanceCapacity(), role=Role.PREFILL))
    if not legs(commands):  # it was on its way
        assert core.attempt("r").lease is not None
    else:
        assert legs(commands) == [(2, Leg.PREFILL, "p")]
    core.core.check()


# Leases.


def test_what_waits_to_fetch_for_too_long_has_its_prompt_computed_again(fleet):
    core = fleet("p1", "d1", kv_lease_s=20.0)
    arrive(core)
    core.arrive("runs", 5000, only=("d1",))
    assert legs(core.prefill_done("r")) == []
    core.now += 19.0
    assert legs(core.tick()) == []
    core.now += 1.0
    assert legs(core.tick()) == [(2, Leg.PREFILL, "p")]
    core.prefill_done("r", 2)
    assert [c.leg for c in core.first_token("runs")] == [Leg.DECODE]
    core.core.check()


def test_a_prefill_instance_is_not_drained_before_its_prompts_are_fetched(fleet):
    core = fleet("p1", "d1")

    def running() -> int:
        return next(load.running for load in core.core.own_loads(core.now) if load.instance_id == "p1")

    arrive(core)
    core.drain("p1")
    assert running() == 1
    core.prefill_done("r")
    assert running() == 1
    core.first_token("r", 2)
    assert running() == 0


@pytest.mark.parametrize("end", ["cancel", "finish", "fail"])
def test_a_lease_ends_with_its_request(fleet, end, empty_books):
    core = fleet("p1", "d1", max_attempts=1)
    arrive(core, streams=False)
    core.prefill_done("r")
    {
        "cancel": lambda: core.cancel("r"),
        "finish": lambda: core.send(RequestFinished("r", 2, 5)),
        "fail": lambda: core.fail("r", 2),
    }[end]()
    assert core.books("p1") == empty_books
    core.core.check()


LATE_S = 6.0  # the first token is due after 5 s


@pytest.mark.parametrize(
    ("leg_s", "then", "prefill", "decode"),
    [
        (1.0, ["first token", "finish"], (1, 0), (1, 0)),
        (LATE_S, ["first token", "finish"], (0, 1), (0, 0)),
        (LATE_S, ["finish"], (0, 1), (0, 0)),
        (LATE_S, ["cancel"], (0, 1), (0, 0)),
        (LATE_S, ["fail"], (0, 1), (0, 1)),
        (1.0, ["wait", "first token", "cancel"], (1, 0), (0, 1)),
        (1.0, ["wait", "cancel"], (1, 0), (0, 0)),
        (1.0, ["fail"], (1, 0), (0, 1)),
        (None, ["time out"], (0, 1), (0, 0)),
        (None, ["fail"], (0, 1), (0, 0)),
        (None, ["cancel"], (0, 0), (0, 0)),
    ],
)
def test_each_role_counts_the_first_tokens_that_it_has_made_late(fleet, leg_s, then, prefill, decode):
    """leg_s: how long the prefill leg takes; None: it does not end. prefill, decode: kept and missed."""
    core = fleet("p1", "d1", max_attempts=1)
    arrive(core, timeout_s=20.0)
    number = 1
    if leg_s is not None:
        core.now += leg_s
        core.prefill_done("r")
        number = 2
    for step in then:
        {
            "first token": lambda: core.first_token("r", number),
            "finish": lambda: core.finish("r", number),
            "cancel": lambda: core.cancel("r"),
            "fail": lambda: core.fail("r", number),
            "wait": lambda: core.tick(LATE_S),
            "time out": lambda: core.tick(20.0),
        }[step]()
    assert not core.core.attempts
    totals = PoolTotals.of(core.core.stats)
    counted = [(of.slo_kept, of.slo_missed) for of in map(totals.of_role, (Role.PREFILL, Role.DECODE))]
    assert counted == [prefill, decode]


def test_the_story_tells_both_legs(fleet):
    core = fleet("p1", "d1")
    arrive(core)
    core.now += 1.5
    core.prefill_done("r")
    story = core.core.story("r")
    assert "computes the prompt for another instance" in story
    assert "fetches the prompt from p1, computed in 1.500 s" in story


def test_an_instance_that_changes_its_role_keeps_what_runs_there(fleet):
    core = fleet("p1", "p2", "d1")
    (prefill,) = arrive(core)
    core.join(prefill.instance_id, role=Role.DECODE)
    core.core.check()
    assert legs(core.prefill_done("r")) == [(2, Leg.DECODE, "d")] or core.attempt("r").request.leg is Leg.DECODE
    assert core.view(prefill.instance_id).offer.role is Role.DECODE


def test_news_of_a_prefill_that_is_over_is_late(fleet):
    core = fleet("p1", "d1")
    arrive(core)
    core.prefill_done("r")
    assert core.prefill_done("r") == []
    assert core.prefill_done("r", 2) == []
    assert core.core.stats.late_events == 2
