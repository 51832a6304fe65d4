"""What each happening makes of each phase of a request."""

import pytest

from dualmap.router.requests.phase import BEGUN, DISPATCHED, DROPPED, ENDED, STOPPED, Phase

PHASES = ("WAITING", "RUNNING", "ANSWERING", "HALTED", "OVER")
TABLE = [
    # from each of PHASES; None: cannot happen then
    (DISPATCHED, ("RUNNING", "RUNNING", None, "HALTED", None)),
    (DROPPED, ("WAITING", "WAITING", "ANSWERING", "HALTED", "OVER")),
    (BEGUN, (None, "ANSWERING", None, "ANSWERING", None)),
    (STOPPED, (None, None, "HALTED", None, None)),
    (ENDED, ("OVER", "OVER", "OVER", "OVER", None)),
]


@pytest.mark.parametrize(("transitions", "after"), TABLE, ids=["DISPATCHED", "DROPPED", "BEGUN", "STOPPED", "ENDED"])
def test_each_happening_leads_where_the_table_says_and_nowhere_else(transitions, after):
    found = {phase.name: transitions[phase].name if phase in transitions else None for phase in Phase}
    assert found == dict(zip(PHASES, after, strict=True))


def test_what_has_begun_is_never_as_if_it_had_not():
    begun = {Phase.ANSWERING, Phase.HALTED}
    after = {transitions[phase] for transitions, _ in TABLE for phase in begun if phase in transitions}
    assert after == {*begun, Phase.OVER}
