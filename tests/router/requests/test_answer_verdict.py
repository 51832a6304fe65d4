"""Which answers of instances go to the client, which may be had elsewhere, and which are cut short."""

import pytest

from dualmap.router.requests.answer_verdict import Verdict, answer_verdict, failure_cause
from dualmap.scheduler.events import FailureCause

ANSWER, RETRY, FAILURE, REPLACED = Verdict


@pytest.mark.parametrize(
    ("status", "aborted", "begun", "last", "verdict"),
    [
        (200, False, False, False, ANSWER),
        (200, False, True, False, ANSWER),
        (200, True, False, False, RETRY),
        (200, True, False, True, RETRY),
        (200, True, True, False, FAILURE),
        (200, True, True, True, FAILURE),
        (400, False, False, False, ANSWER),
        (404, False, False, False, ANSWER),
        (408, False, False, False, RETRY),
        (408, False, False, True, RETRY),
        (429, False, False, False, RETRY),
        (429, False, False, True, ANSWER),
        (500, False, False, False, RETRY),
        (500, False, False, True, ANSWER),
        (500, True, False, True, RETRY),
        (501, False, False, False, ANSWER),
        (502, False, False, False, RETRY),
        (502, False, False, True, RETRY),
        (504, False, False, False, RETRY),
        (504, False, False, True, RETRY),
        (503, False, False, False, RETRY),
        (503, False, False, True, RETRY),
        (101, False, False, False, RETRY),
        (101, False, False, True, RETRY),
    ],
)
def test_an_answer_is_judged_by_its_status_its_end_and_what_the_client_has(status, aborted, begun, last, verdict):
    assert answer_verdict(status, aborted=aborted, begun=begun, last=last) is verdict


@pytest.mark.parametrize(
    ("status", "last", "verdict"),
    [
        (200, False, RETRY),
        (200, True, RETRY),
        (302, False, ANSWER),
        (302, True, ANSWER),
        (404, False, RETRY),
        (404, True, REPLACED),
        (429, True, REPLACED),
        (500, False, RETRY),
        (500, True, RETRY),
        (502, True, RETRY),
        (520, False, RETRY),
        (520, True, RETRY),
    ],
)
def test_a_page_is_no_answer_but_where_it_leads_elsewhere(status, last, verdict):
    assert answer_verdict(status, aborted=False, begun=False, last=last, html=True) is verdict


@pytest.mark.parametrize("status", [101, 200, 400, 500, 503])
@pytest.mark.parametrize("last", [False, True])
def test_what_the_client_has_some_of_is_never_had_elsewhere(status, last):
    verdicts = {answer_verdict(status, aborted=aborted, begun=True, last=last) for aborted in (False, True)}
    assert verdicts == {ANSWER, FAILURE}


@pytest.mark.parametrize(
    ("status", "aborted", "cause"),
    [
        (101, False, FailureCause.BROKEN),
        (500, False, FailureCause.ERROR),
        (429, False, FailureCause.REFUSED),
        (502, False, FailureCause.BROKEN),
        (503, False, FailureCause.REFUSED),
        (504, False, FailureCause.BROKEN),
        (200, True, FailureCause.ABORTED),
        (503, True, FailureCause.ABORTED),
    ],
)
def test_what_is_no_answer_has_a_cause(status, aborted, cause):
    assert failure_cause(status, aborted=aborted) is cause
