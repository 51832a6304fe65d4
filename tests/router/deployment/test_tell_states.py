from dualmap.router.deployment.tell_states import CALM_S, TellStates
from dualmap.scheduler import InstanceCapacity
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState

READY, LOST, STARTING = MemberState.READY, MemberState.LOST, MemberState.STARTING
WHERE = Endpoint("h", 1)


class Told:
    def __init__(self) -> None:
        self.now = 0.0
        self.incarnation = 1
        self.lines: list[str] = []
        self.states = TellStates(self.lines.append, lambda: self.now)

    def note(self, seconds: float, **states: MemberState) -> list[str]:
        """What is said after so many seconds."""
        self.now += seconds
        self.lines.clear()
        self.states.note(
            Member(
                i,
                self.incarnation,
                Endpoint("h", 1),
                state=state,
                capacity=InstanceCapacity(),
                reason="" if state is READY else "why",
            )
            for i, state in states.items()
        )
        return list(self.lines)


def test_an_instance_that_is_lost_is_told_with_the_reason_and_so_is_its_return():
    told = Told()
    assert told.note(0, a=READY, b=READY) == []
    assert told.note(1, a=LOST, b=READY) == ["a is lost: why"]
    assert told.note(1, a=LOST, b=READY) == []
    assert told.note(1, a=READY, b=STARTING) == ["a is ready again", "b is starting: why"]


def test_one_that_comes_and_goes_is_told_once_in_a_while():
    told = Told()
    told.note(0, a=READY)
    lines = [line for _ in range(4) for state in (LOST, READY) for line in told.note(1, a=state)]
    assert lines == ["a is lost: why", "a is ready again"]
    assert told.note(CALM_S, a=LOST) == ["a is lost: why"]


def test_one_that_is_lost_while_nothing_is_told_is_told_later():
    told = Told()
    told.note(0, a=READY)
    told.note(1, a=LOST)
    told.note(1, a=READY)
    assert told.note(1, a=LOST) == []
    assert told.note(CALM_S, a=LOST) == ["a is lost: why"]


def test_one_that_is_not_there_at_first_is_told_when_it_comes():
    told = Told()
    assert told.note(0, a=LOST, b=STARTING) == []
    assert told.note(1, a=READY, b=READY) == ["a is ready", "b is ready"]


def test_what_is_stopped_or_leaves_is_no_loss():
    told = Told()
    told.note(0, a=READY, b=READY, c=READY)
    assert told.note(1, a=MemberState.DRAINING, b=MemberState.STOPPING) == []
    assert told.note(1, b=MemberState.STOPPED) == []


def test_one_that_was_gone_between_two_looks_is_told_to_be_back():
    told = Told()
    told.note(0, a=READY)
    told.incarnation = 2
    assert told.note(1, a=READY) == ["a is ready again: it was gone for a moment"]
    told.incarnation = 3
    assert told.note(1, a=READY) == []
    assert told.note(CALM_S, a=READY) == ["a is ready again: it was gone for a moment"]
    assert told.note(CALM_S, a=READY) == []


def test_one_that_is_new_is_told_once_when_it_is_ready_or_lost():
    told = Told()
    told.note(0, a=LOST)
    assert told.note(1, a=LOST, b=STARTING, c=STARTING) == []
    assert told.note(1, a=LOST, b=LOST, c=READY) == ["b is lost: why", "c is ready"]
    assert told.note(CALM_S, a=LOST, b=STARTING) == []
    assert told.note(CALM_S, a=LOST, b=LOST) == []


def test_one_that_was_to_start_again_and_is_given_up_is_told():
    told = Told()
    told.note(0, a=READY)
    assert told.note(1, a=STARTING) == ["a is starting: why"]
    assert told.note(CALM_S, a=LOST) == ["a is lost: why"]
    assert told.note(CALM_S, a=READY) == ["a is ready again"]
