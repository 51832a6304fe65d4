from dualmap.instances.actor.start_tries import BACKOFF_S, StartTries
from dualmap.scheduler.fleet.member import MemberState

STARTING, LOST = MemberState.STARTING, MemberState.LOST


def tries(start_timeout_s: float = 100.0) -> tuple[StartTries, list[float]]:
    """And the time, to be set."""
    now = [0.0]
    return StartTries(start_timeout_s, lambda: now[0]), now


def test_a_server_that_ended_is_waited_for():
    starts, _ = tries()
    assert starts.ended("it was killed") == (STARTING, "it was killed; started again")
    assert starts.failed("no GPU") == (STARTING, "its start failed: no GPU")


def test_one_whose_starts_fail_again_and_again_is_given_up():
    starts, _ = tries()
    states = [starts.failed("no GPU")[0] for _ in range(3)]
    assert states == [STARTING, STARTING, LOST]
    assert starts.failed("no GPU") == (LOST, "its start failed 4 times in a row: no GPU")


def test_one_that_took_all_the_time_of_a_start_is_given_up_at_once():
    starts, now = tries(start_timeout_s=100.0)
    now[0] = 50.0
    starts.ended("it was killed")
    now[0] = 149.0
    assert starts.failed("late")[0] is STARTING
    now[0] = 150.0
    assert starts.failed("late")[0] is LOST


def test_one_that_was_ready_meanwhile_begins_anew():
    starts, _ = tries()
    for _ in range(3):
        starts.failed("no GPU")
    starts.ended("it was killed")
    assert starts.failed("no GPU") == (STARTING, "its start failed: no GPU")


def test_pauses_grow_with_each_failure_up_to_a_limit():
    starts, _ = tries()
    pauses = []
    for _ in range(len(BACKOFF_S) + 1):
        pauses.append(starts.pause_s)
        starts.failed("no GPU")
    assert pauses == [*BACKOFF_S, BACKOFF_S[-1]]
