"""What becomes of a request whose attempt failed, as a table."""

import pytest

from dualmap.scheduler import Request, SchedulerConfig
from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.recovery import Fate, decide_fate
from tests.scheduler.made import attempt_of

ANY_CAUSE = [cause for cause in FailureCause if cause is not FailureCause.STALLED]


def attempt(number: int = 1, *, started: bool = False) -> Attempt:
    made = attempt_of(Request("r", (), 100), number=number)
    if started:
        made.dispatch(0, work_tokens=100, own_kv_tokens=100, now=0.0)
        made.begin(0.0, now=0.1)
    return made


@pytest.mark.parametrize("cause", ANY_CAUSE)
@pytest.mark.parametrize(
    ("number", "started", "tokens_sent", "fate"),
    [
        (1, False, 0, Fate.RETRY),
        (2, False, 0, Fate.RETRY),
        (3, False, 0, Fate.GIVE_UP),
        (4, False, 0, Fate.GIVE_UP),
        (1, True, 0, Fate.FAIL),
        (1, False, 1, Fate.FAIL),
        (3, True, 7, Fate.FAIL),
    ],
)
def test_a_request_runs_elsewhere_while_the_client_has_nothing_and_attempts_are_left(
    cause, number, started, tokens_sent, fate
):
    config = SchedulerConfig(max_attempts=3)
    assert decide_fate(attempt(number, started=started), tokens_sent, cause, config) is fate


@pytest.mark.parametrize("number", [1, 3])
def test_a_stalled_request_is_not_tried_again(number: int):
    assert decide_fate(attempt(number), 0, FailureCause.STALLED, SchedulerConfig()) is Fate.FAIL
