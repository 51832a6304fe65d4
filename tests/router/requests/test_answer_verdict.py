"""Which answers of instances go to the client, which may be had elsewhere, and which are cut short."""

import pytest

from dualmap.router.requests.answer_verdict import ANSWER, Kind, Verdict, answer_verdict
from dualmap.scheduler.events import FailureCause

ERROR = Verdict(Kind.RETRY, FailureCause.ERROR)
REFUSED = Verdict(Kind.RETRY, FailureCause.REFUSED)
BROKEN = Verdict(Kind.RETRY, FailureCause.BROKEN)
ABORTED = Verdict(Kind.RETRY, FailureCause.ABORTED)
CUT_SHORT = Verdict(Kind.FAILURE, FailureCause.ABORTED)


@pytest.mark.parametrize(
    ("status", "aborted", "begun", "last", "verdict"),
    [
        (200, False, False, False, ANSWER),
        (200, False, True, False, ANSWER),
        (200, True, False, False, ABORTED),
        (200, True, False, True, ABORTED),
        (200, True, True, False, CUT_SHORT),
        (200, True, True, True, CUT_SHORT),
        (400, False, False, False, ANSWER),
        (404, False, False, False, ANSWER),
        (429, False, False, False, ANSWER),
        (500, False, False, False, ERROR),
        (500, False, False, True, ANSWER),
        (500, True, False, True, ABORTED),
        (501, False, False, False, ANSWER),
        (502, False, False, False, ANSWER),
        (503, False, False, False, REFUSED),
        (503, False, False, True, REFUSED),
        (101, False, False, False, BROKEN),
        (101, False, False, True, BROKEN),
    ],
)
def test_an_answer_is_judged_by_its_status_its_end_and_what_the_client_has(status, aborted, begun, last, verdict):
    assert answer_verdict(status, aborted=aborted, begun=begun, last=last) == verdict


@pytest.mark.parametrize("status", [101, 200, 400, 500, 503])
@pytest.mark.parametrize("last", [False, True])
def test_what_the_client_has_some_of_is_never_had_elsewhere(status, last):
    kinds = {answer_verdict(status, aborted=aborted, begun=True, last=last).kind for aborted in (False, True)}
    assert kinds == {Kind.ANSWER, Kind.FAILURE}
