"""An instance that says nothing any more, while others do, is left: what it has not begun to answer goes elsewhere."""

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.commands import Abort, Command
from dualmap.scheduler.events import LoadReported
from dualmap.scheduler.instance.reported_load import STALE_AFTER_S
from tests.scheduler.core.seen import dispatched

LOOKS = int(STALE_AFTER_S) + 2  # seconds until silence was seen at two looks


def seconds(core, count: int, speaking: str) -> list[Command]:
    """What is done in so many seconds, in which these instances report."""
    commands = []
    for _ in range(count):
        commands += core.tick(1.0)
        for instance_id in speaking:
            core.send(LoadReported(instance_id, running=1, waiting=0, kv_used=0.0))
    return commands


def running_at_a(script, **request: object):
    core = script("a", "b")
    seconds(core, 1, speaking="ab")
    core.arrive("r", 60_000, blocks=core.prompt("a"), **request)
    assert core.attempt("r").instance_id == "a"
    return core


def test_what_has_no_token_runs_elsewhere(script, empty_books):
    core = running_at_a(script)
    commands = seconds(core, LOOKS, speaking="b")
    assert Abort("r", 1, "a") in commands
    assert dispatched(commands) == [("r", 2, "b")]
    assert core.books("a") == empty_books


def test_new_requests_avoid_it_until_it_speaks(script):
    core = running_at_a(script)
    seconds(core, LOOKS, speaking="b")
    core.arrive("next", 10, blocks=core.prompt("a"))
    assert core.attempt("next").instance_id == "b"
    seconds(core, 2, speaking="ab")
    core.arrive("then", 10, blocks=core.prompt("a"))
    assert core.attempt("then").instance_id == "a"


def test_what_waits_for_it_is_placed_again(script):
    core = running_at_a(script)
    seconds(core, int(STALE_AFTER_S), speaking="b")
    core.arrive("waits", 10, blocks=core.prompt("a"))
    seconds(core, 2, speaking="b")
    assert core.attempt("waits").instance_id == "b"


@pytest.mark.parametrize("speaking", ["", "ab"])
def test_nothing_moves_where_all_are_silent_or_none(script, speaking: str):
    core = running_at_a(script)
    assert not seconds(core, 2 * LOOKS, speaking=speaking)


def test_silence_while_the_gateway_stood_still_is_its_own(script):
    core = running_at_a(script)
    assert not core.tick(30.0)
    core.send(LoadReported("b", running=1, waiting=0, kv_used=0.0))
    assert not core.tick(1.0)  # the other report may be on its way
    assert core.attempt("r").state is AttemptState.PREFILLING


def test_a_stream_that_has_begun_stays(script):
    core = running_at_a(script)
    core.first_token("r")
    assert not seconds(core, 2 * LOOKS, speaking="b")
    assert core.attempt("r").instance_id == "a"


def test_what_only_it_can_answer_stays(script):
    core = running_at_a(script, only=("a",), stateful=True)
    assert not seconds(core, 2 * LOOKS, speaking="b")


def test_the_last_attempt_stays(script):
    core = script("a", "b", max_attempts=1)
    seconds(core, 1, speaking="ab")
    core.arrive("r", 60_000, blocks=core.prompt("a"))
    assert not seconds(core, 2 * LOOKS, speaking="b")
