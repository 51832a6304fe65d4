"""What becomes of a request whose attempt failed, as a table."""

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.recovery import Fate, decide_fate
from tests.scheduler.made import attempt_of

GONE = [(FailureCause.CONNECT, Fate.FAIL), (FailureCause.STALLED, Fate.FAIL), (FailureCause.REFUSED, Fate.RETRY)]
ANY_CAUSE = list(FailureCause)


def attempt(*, started: bool = False) -> Attempt:
    made = attempt_of(Request("r", (), 100))
    if started:
        made.dispatch(0, work_tokens=100, own_kv_tokens=100, now=0.0)
        made.begin(0.0, now=0.1)
    return made


@pytest.mark.parametrize("cause", ANY_CAUSE)
@pytest.mark.parametrize(
    ("last", "started", "tokens_sent", "fate"),
    [
        (False, False, 0, Fate.RETRY),
        (False, True, 0, Fate.FAIL),
        (False, False, 1, Fate.FAIL),
        (True, True, 7, Fate.FAIL),
    ],
)
def test_a_request_runs_elsewhere_while_the_client_has_nothing_and_attempts_are_left(
    cause, last, started, tokens_sent, fate
):
    assert decide_fate(attempt(started=started), tokens_sent, cause, last=last) is fate


@pytest.mark.parametrize("cause", ANY_CAUSE)
def test_who_has_waited_out_the_last_stall_is_told_so(cause):
    fate = Fate.FAIL if cause is FailureCause.STALLED else Fate.GIVE_UP
    assert decide_fate(attempt(), 0, cause, last=True) is fate


@pytest.mark.parametrize(("cause", "fate"), GONE)
def test_what_an_instance_keeps_is_gone_once_that_cannot_be_reached_but_not_when_it_refuses(cause, fate):
    goes_on = attempt_of(Request("r", (), 100, only=("a",), stateful=True))
    assert decide_fate(goes_on, 0, cause, last=False) is fate
