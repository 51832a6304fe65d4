"""What each happening makes of each phase of a request."""

import pytest

from dualmap.router.requests.phase import BEGUN, DISPATCHED, DROPPED, ENDED, Phase

PHASES = ("WAITING", "RUNNING", "ANSWERING", "OVER")
TABLE = [
    # from each of PHASES; None: cannot happen then
    (DISPATCHED, ("RUNNING", "RUNNING", None, None)),
    (DROPPED, ("WAITING", "WAITING", "ANSWERING", "OVER")),
    (BEGUN, (None, "ANSWERING", None, None)),
    (ENDED, ("OVER", "OVER", "OVER", None)),
]


@pytest.mark.parametrize(("transitions", "after"), TABLE, ids=["DISPATCHED", "DROPPED", "BEGUN", "ENDED"])
def test_each_happening_leads_where_the_table_says_and_nowhere_else(transitions, after):
    found = {phase.name: transitions[phase].name if phase in transitions else None for phase in Phase}
    assert found == dict(zip(PHASES, after, strict=True))


def test_what_has_begun_never_waits_or_runs_again():
    assert {transitions.get(Phase.ANSWERING) for transitions, _ in TABLE} == {None, Phase.ANSWERING, Phase.OVER}
