"""Scheduler.story: how a request came to its state, from what the core keeps anyway."""

from dualmap.scheduler.attempt import LEADING_BLOCKS
from dualmap.scheduler.core.books import REMEMBERED
from dualmap.scheduler.events import FailureCause


def ends(lines: tuple[str, ...]) -> list[str]:
    """What became of each attempt."""
    return [line for line in lines if line.startswith("over") or line in ("waiting", "prefilling", "decoding")]


def test_a_request_in_flight_tells_its_state(script):
    core = script("a")
    core.arrive("runs", 1000)
    core.arrive("waits", 1000)
    assert ends(core.core.story("runs")) == ["prefilling"]
    assert ends(core.core.story("waits")) == ["waiting"]
    core.first_token("runs")
    assert ends(core.core.story("runs")) == ["decoding"]


def test_a_request_that_ran_twice_tells_of_both_attempts(script):
    core = script("a", "b")
    core.arrive("r", 1000, blocks=core.prompt("a", "b"))
    first, second = (core.attempt("r").instance_id, "ab".replace(core.attempt("r").instance_id, ""))
    core.now += 0.5
    core.fail("r", cause=FailureCause.BROKEN)
    core.now += 0.5
    core.finish("r", 2)
    story = core.core.story("r")
    assert ends(story) == ["over after 0.500 s: failed", "over after 1.000 s: finished"]
    assert [line.partition(" (")[0] for line in story if line.startswith("attempt")] == [
        f"attempt 1 for {first}",
        f"attempt 2 for {second}",
    ]
    assert f"had failed on {first}" in story


def test_what_nobody_asked_for_has_no_story(script):
    assert script("a").core.story("never") == ()


def test_only_the_last_requests_are_remembered(script):
    core = script("a")
    for number in range(REMEMBERED + 1):
        core.arrive(f"r{number}", 10)
        core.cancel(f"r{number}")
    assert core.core.story("r0") == ()
    assert ends(core.core.story("r1")) == ["over after 0.000 s: the client left"]


def test_of_a_long_prompt_that_is_over_no_more_is_kept_than_tells_its_prefix(script):
    core = script("a", "b")
    blocks = tuple(range(1, 2 * LEADING_BLOCKS))
    core.arrive("r", 1000, blocks=blocks)
    first = core.attempt("r")
    core.fail("r", cause=FailureCause.BROKEN)
    assert core.attempt("r").request.blocks == blocks
    core.tick(0.1)
    assert first.request.blocks == blocks[:LEADING_BLOCKS]
    assert core.attempt("r").request.blocks == blocks
    core.finish("r", 2)
    core.tick(0.1)
    assert {len(attempt.request.blocks) for attempt in core.core.books.ended} == {LEADING_BLOCKS}
