"""attempt.py: the table of an attempt's states, its only writer, and what an attempt tells of itself."""

import ast
from pathlib import Path

import pytest

from dualmap import scheduler
from dualmap.scheduler import Request
from dualmap.scheduler.attempt import TRANSITIONS, Attempt, AttemptState, Ending, Step
from dualmap.scheduler.errors import ContractError
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.ttft_estimate import TtftEstimate
from tests.scheduler.made import attempt_of

ELSEWHERE = TtftEstimate("b", 10, 90, work_tokens=90, running=0, prefill_s=0.09, total_s=0.5, held_tokens=10)
STEPS = {
    Step.MOVED: lambda attempt: attempt.place_at(ELSEWHERE, ChoiceReason.MOVED, now=1.0),
    Step.DISPATCHED: lambda attempt: attempt.dispatch(10, work_tokens=90, own_kv_tokens=100, now=1.0),
    Step.ASSUMED: lambda attempt: attempt.assume_prefilled(),
    Step.SEEN: lambda attempt: attempt.begin(0.0, now=1.0),
    Step.ENDED: lambda attempt: attempt.end(Ending.FINISHED, now=1.0),
}
PATHS = {
    AttemptState.WAITING: (),
    AttemptState.PREFILLING: (Step.DISPATCHED,),
    AttemptState.UNSEEN: (Step.DISPATCHED, Step.ASSUMED),
    AttemptState.DECODING: (Step.DISPATCHED, Step.SEEN),
    AttemptState.OVER: (Step.ENDED,),
}


def attempt_in(state: AttemptState) -> Attempt:
    attempt = attempt_of(Request("r", (), 100))
    for step in PATHS[state]:
        STEPS[step](attempt)
    assert attempt.state is state
    return attempt


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("state", AttemptState)
def test_each_step_leads_where_the_table_says_and_any_other_breaks_the_contract(state: AttemptState, step: Step):
    attempt = attempt_in(state)
    if (state, step) in TRANSITIONS:
        STEPS[step](attempt)
        assert attempt.state is TRANSITIONS[state, step]
    else:
        with pytest.raises(ContractError, match=f"attempt 1 of request 'r' is {state} and cannot be {step}"):
            STEPS[step](attempt)
        assert attempt.state is state


def test_every_state_is_reached_and_all_but_the_last_are_left():
    assert {*TRANSITIONS.values()} == {*AttemptState}
    assert {state for state, _ in TRANSITIONS} == {*AttemptState} - {AttemptState.OVER}


@pytest.mark.parametrize("state", AttemptState)
def test_an_attempt_has_started_once_output_was_seen(state: AttemptState):
    attempt = attempt_in(state)
    assert attempt.started is (state is AttemptState.DECODING)
    if state is not AttemptState.OVER:
        attempt.end(Ending.FAILED, now=2.0)
        assert attempt.started is (state is AttemptState.DECODING), "that is known when it is over, too"


def test_nobody_but_an_attempt_writes_an_attempt():
    root = Path(scheduler.__file__).parent
    written = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "attempt"
    ]
    assert not written


def test_an_attempt_tells_how_it_came_to_its_state():
    attempt = attempt_of(Request("r", (), 100), arrived_at=50.0)
    attempt.place_at(ELSEWHERE, ChoiceReason.MOVED, now=50.25)
    attempt.dispatch(10, work_tokens=90, own_kv_tokens=100, now=50.5)
    attempt.begin(0.0, now=51.0)
    attempt.end(Ending.FINISHED, now=53.0)
    assert attempt.story() == [
        "attempt 1 for b (moved) of a: 10 of 100 tokens cached, first token expected after 0.750 s, due after 5 s",
        "moved 1 times, last from a",
        "dispatched after 0.500 s",
        "output seen after 1.000 s",
        "over after 3.000 s: finished",
    ]
