"""The rest of an answer that an instance failed in its midst, as the core places it."""

from dataclasses import replace

import pytest

from dualmap.scheduler import ContractError, Request
from dualmap.scheduler.commands import Command, Dispatch, FailStream, Reject, RejectReason
from dualmap.scheduler.events import FailureCause, RequestFinished, StreamContinued
from tests.scheduler.conftest import Script


def rest(core: Script, request: Request, *, after: int = 1, sent_tokens: int = 100, tried: str = "a") -> list[Command]:
    left = replace(
        request,
        prompt_tokens=request.prompt_tokens + sent_tokens,
        goes_on_after=after,
        sent_tokens=request.sent_tokens + sent_tokens,
    )
    return core.send(StreamContinued(left, (tried,)))


def cut(core: Script, request_id: str = "r", **request: object) -> Request:
    """One that a has answered half, and lost."""
    core.arrive(request_id, blocks=core.prompt("a"), **request)
    asked = core.attempt(request_id).request
    assert core.attempt(request_id).instance_id == "a"
    core.first_token(request_id)
    assert core.fail(request_id, tokens_sent=100) == [FailStream(request_id, FailureCause.BROKEN)]
    return asked


def test_the_rest_goes_to_another_instance_in_the_next_attempt(script):
    core = script("a", "b")
    request = cut(core)
    (dispatch,) = rest(core, request)
    assert (dispatch.attempt, dispatch.instance_id) == (2, "b")
    assert core.attempt("r").request.prompt_tokens == 1100


def test_an_instance_that_is_alone_gets_the_rest_as_well(script):
    core = script("a")
    (dispatch,) = rest(core, cut(core))
    assert dispatch.instance_id == "a"


def test_a_late_event_of_the_lost_attempt_says_nothing_of_the_rest(script):
    core = script("a", "b")
    rest(core, cut(core))
    late = core.core.stats.late_events
    core.finish("r", 1)
    assert core.fail("r", 1) == []
    assert core.core.stats.late_events == late + 2
    assert core.attempt("r").number == 2


def test_the_rest_is_counted_as_part_of_its_request(script):
    core = script("a", "b")
    request = cut(core)
    stats = core.core.stats
    before = (stats.arrived, stats.arrived_work_tokens, stats.slo_kept, stats.slo_missed)
    rest(core, request)
    core.now += 1000.0
    core.first_token("r", 2)
    assert (stats.arrived, stats.arrived_work_tokens, stats.slo_kept, stats.slo_missed) == before
    mean = core.core.answers.mean_tokens
    core.send(RequestFinished("r", 2, int(mean)))
    assert core.core.answers.mean_tokens == pytest.approx(mean, abs=0.02), "of the whole answer, once"


def test_the_rest_goes_before_all_that_waits(script):
    core = script("a", "b", capacity={"max_running": 1})
    request = cut(core)
    core.arrive("ra", blocks=core.prompt("a"))
    core.arrive("rb", blocks=core.prompt("b"))
    for number in range(4):
        core.arrive(f"w{number}", priority=-100)
    assert rest(core, request) == []
    assert core.attempt("r").instance_id == "b"
    assert [c.request_id for c in core.finish("rb") if isinstance(c, Dispatch)] == ["r"]


def test_nobody_makes_room_for_the_rest(script):
    core = script("a", "b", capacity={"max_running": 1}, max_waiting=1, taking=False)
    request = cut(core)
    for number in range(4):
        core.arrive(f"w{number}", priority=50)
    assert not any(isinstance(c, Reject) for c in core.tick())
    (reject,) = rest(core, request)
    assert (reject.request_id, reject.reason) == ("r", RejectReason.QUEUE_FULL)
    assert len(core.core.attempts) == 4
    assert core.core.stats.slo_missed == 0


def test_the_rest_is_refused_where_no_instance_is_left(script):
    core = script("a")
    request = cut(core)
    core.lose("a")
    (reject,) = rest(core, request)
    assert reject.reason is RejectReason.NO_INSTANCE


def test_its_deadline_and_time_out_count_from_then(script):
    core = script("a", "b", ttft_slo_s=5.0)
    request = cut(core, timeout_s=2.0)
    core.now += 100.0
    (dispatch,) = rest(core, request)
    assert dispatch.queued_s == 0
    assert core.attempt("r").deadline_s == core.now + 5.0
    assert core.tick(10.0) == [], "its client's time-out was for the first token"


def test_the_rest_is_tried_as_often_as_any_request_and_may_be_cut_again(script):
    core = script("a", "b", "c", max_attempts=2)
    request = cut(core)
    rest(core, request)
    (again,) = core.fail("r", 2)
    assert again.attempt == 3
    assert again.last
    (reject,) = core.fail("r", 3)
    assert reject.reason is RejectReason.ATTEMPTS_EXHAUSTED
    rest(core, request, after=3)
    core.first_token("r", 4)
    assert core.fail("r", 4, tokens_sent=5) == [FailStream("r", FailureCause.BROKEN)]
    (dispatch,) = rest(core, request, after=4, sent_tokens=200)
    assert (dispatch.attempt, dispatch.last) == (5, False)


def test_a_request_in_flight_cannot_go_on_elsewhere(script):
    core = script("a", "b")
    core.arrive("r")
    with pytest.raises(ContractError):
        rest(core, core.attempt("r").request)


def test_the_story_tells_both_parts(script):
    core = script("a", "b")
    rest(core, cut(core))
    story = "\n".join(core.core.story("r"))
    assert "goes on with an answer of which its client has 100 tokens" in story
