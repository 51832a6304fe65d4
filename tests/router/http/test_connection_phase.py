"""What each happening makes of each phase of a client's connection."""

import pytest

from dualmap.router.http.connection_phase import ANSWERED, BEGUN, LAST_ANSWERED, PAUSED, RESUMED, ConnectionPhase

PHASES = ("IDLE", "ANSWERING", "BLOCKED", "UNREAD", "CLOSING", "CLOSING_UNREAD", "GONE")
TABLE = {
    # from IDLE, ANSWERING, BLOCKED, UNREAD, CLOSING, CLOSING_UNREAD and GONE; None: cannot happen then
    "BEGUN": ("ANSWERING", None, None, "BLOCKED", None, None, None),
    "ANSWERED": ("IDLE", "IDLE", "UNREAD", "UNREAD", None, None, "GONE"),
    "LAST_ANSWERED": ("CLOSING", "CLOSING", "CLOSING_UNREAD", "CLOSING_UNREAD", None, None, "GONE"),
    "PAUSED": ("UNREAD", "BLOCKED", "BLOCKED", "UNREAD", "CLOSING_UNREAD", "CLOSING_UNREAD", "GONE"),
    "RESUMED": ("IDLE", "ANSWERING", "ANSWERING", "IDLE", "CLOSING", "CLOSING", "GONE"),
}
TRANSITIONS = {
    "BEGUN": BEGUN,
    "ANSWERED": ANSWERED,
    "LAST_ANSWERED": LAST_ANSWERED,
    "PAUSED": PAUSED,
    "RESUMED": RESUMED,
}
UNREAD = {ConnectionPhase.BLOCKED, ConnectionPhase.UNREAD, ConnectionPhase.CLOSING_UNREAD}


@pytest.mark.parametrize("happening", TABLE)
def test_each_happening_leads_where_the_table_says_and_nowhere_else(happening: str):
    expected = dict(zip(PHASES, TABLE[happening], strict=True))
    transitions = TRANSITIONS[happening]
    assert {
        phase.name: transitions[phase].name if phase in transitions else None for phase in ConnectionPhase
    } == expected


@pytest.mark.parametrize("phase", [phase for phase in ConnectionPhase if phase is not ConnectionPhase.GONE])
def test_what_blocks_and_resumes_is_as_before_and_the_buffer_is_full_in_between(phase: ConnectionPhase):
    assert PAUSED[phase] in UNREAD
    assert RESUMED[PAUSED[phase]] is RESUMED[phase] not in UNREAD


def test_nobody_comes_back():
    for transitions in TRANSITIONS.values():
        assert transitions.get(ConnectionPhase.GONE, ConnectionPhase.GONE) is ConnectionPhase.GONE
