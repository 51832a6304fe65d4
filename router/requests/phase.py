"""The phases of a request in the gateway, and what each happening makes of them. Its Driven alone changes phases."""

from collections.abc import Mapping
from enum import Enum, auto


class Phase(Enum):
    WAITING = auto()  # no instance runs it
    RUNNING = auto()  # an instance runs it; the client has had nothing of its answer
    ANSWERING = auto()  # the client has had some of its answer
    HALTED = auto()  # the client has had some of its answer; no instance has gone on with it yet
    OVER = auto()

    __hash__ = object.__hash__  # as fast as it can be: every request looks its phases up


# A name is found five times as fast as the attribute of an enum.
WAITING, RUNNING, ANSWERING, HALTED, OVER = Phase

Transitions = Mapping[Phase, Phase]  # a phase that is no key is impossible then

DISPATCHED: Transitions = {
    WAITING: RUNNING,
    RUNNING: RUNNING,  # a proxy has sent it elsewhere
    HALTED: HALTED,
}
DROPPED: Transitions = {
    WAITING: WAITING,
    RUNNING: WAITING,
    ANSWERING: ANSWERING,
    HALTED: HALTED,
    OVER: OVER,
}
BEGUN: Transitions = {RUNNING: ANSWERING, HALTED: ANSWERING}
STOPPED: Transitions = {ANSWERING: HALTED}  # and another instance is to go on
ENDED: Transitions = {WAITING: OVER, RUNNING: OVER, ANSWERING: OVER, HALTED: OVER}
