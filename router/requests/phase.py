"""The phases of a request in the gateway, and what each happening makes of them. Its Driven alone changes phases."""

from collections.abc import Mapping
from enum import Enum, auto


class Phase(Enum):
    WAITING = auto()  # no instance runs it
    RUNNING = auto()  # an instance runs it; the client has had nothing of its answer
    ANSWERING = auto()  # the client has had some of its answer
    OVER = auto()

    __hash__ = object.__hash__  # as fast as it can be: every request looks its phases up


Transitions = Mapping[Phase, Phase]  # a phase that is no key is impossible then

DISPATCHED: Transitions = {
    Phase.WAITING: Phase.RUNNING,
    Phase.RUNNING: Phase.RUNNING,  # a proxy has sent it elsewhere
}
DROPPED: Transitions = {
    Phase.WAITING: Phase.WAITING,
    Phase.RUNNING: Phase.WAITING,
    Phase.ANSWERING: Phase.ANSWERING,
    Phase.OVER: Phase.OVER,
}
BEGUN: Transitions = {Phase.RUNNING: Phase.ANSWERING}
ENDED: Transitions = {Phase.WAITING: Phase.OVER, Phase.RUNNING: Phase.OVER, Phase.ANSWERING: Phase.OVER}
