"""What becomes of a request whose attempt failed, as a table."""

from dataclasses import replace

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.recovery import Fate, decide_fate
from tests.scheduler.made import attempt_of

ANY_CAUSE = [cause for cause in FailureCause if cause is not FailureCause.STALLED]


def attempt(*, started: bool = False, number: int = 1) -> Attempt:
    made = replace(attempt_of(Request("r", (), 100)), number=number)
    if started:
        made.dispatch(0, work_tokens=100, own_kv_tokens=100, now=0.0)
        made.begin(0.0, now=0.1)
    return made


@pytest.mark.parametrize("cause", ANY_CAUSE)
@pytest.mark.parametrize(
    ("last", "started", "tokens_sent", "fate"),
    [
        (False, False, 0, Fate.RETRY),
        (True, False, 0, Fate.GIVE_UP),
        (False, True, 0, Fate.FAIL),
        (False, False, 1, Fate.FAIL),
        (True, True, 7, Fate.FAIL),
    ],
)
def test_a_request_runs_elsewhere_while_the_client_has_nothing_and_attempts_are_left(
    cause, last, started, tokens_sent, fate
):
    assert decide_fate(attempt(started=started), tokens_sent, cause, last=last) is fate


@pytest.mark.parametrize(
    ("number", "tokens_sent", "last", "fate"),
    [(1, 0, False, Fate.RETRY), (1, 0, True, Fate.FAIL), (2, 0, False, Fate.FAIL), (1, 1, False, Fate.FAIL)],
)
def test_a_request_that_stalled_is_tried_once_more(number, tokens_sent, last, fate):
    """It may be the request that makes engines hang."""
    assert decide_fate(attempt(number=number), tokens_sent, FailureCause.STALLED, last=last) is fate


@pytest.mark.parametrize(("cause", "fate"), [(FailureCause.CONNECT, Fate.FAIL), (FailureCause.REFUSED, Fate.RETRY)])
def test_what_an_instance_keeps_is_gone_once_that_cannot_be_reached_but_not_when_it_refuses(cause, fate):
    goes_on = attempt_of(Request("r", (), 100, only=("a",), stateful=True))
    assert decide_fate(goes_on, 0, cause, last=False) is fate
