"""The phases of a client's connection, and what each happening makes of them. ClientConnection alone changes phases.

Whether a request is being read is the reader's to know: it goes on in any phase but the last three.
"""

from collections.abc import Mapping
from enum import Enum, auto


class ConnectionPhase(Enum):
    IDLE = auto()  # no request is being answered
    ANSWERING = auto()  # a request is being answered over time
    BLOCKED = auto()  # as ANSWERING, and the write buffer is full: the client takes no more for now
    UNREAD = auto()  # as IDLE, and the write buffer is still full
    CLOSING = auto()  # the last answer has been written: what the client still sends is dropped
    CLOSING_UNREAD = auto()  # as CLOSING, and the write buffer is still full
    GONE = auto()  # the client has left or is dropped

    __hash__ = object.__hash__  # as fast as it can be: every request looks its phases up


# A name is found five times as fast as the attribute of an enum.
IDLE, ANSWERING, BLOCKED, UNREAD, CLOSING, CLOSING_UNREAD, GONE = ConnectionPhase

Transitions = Mapping[ConnectionPhase, ConnectionPhase]  # a phase that is no key is impossible then

BEGUN: Transitions = {IDLE: ANSWERING, UNREAD: BLOCKED}
ANSWERED: Transitions = {
    IDLE: IDLE,  # at once
    UNREAD: UNREAD,
    ANSWERING: IDLE,
    BLOCKED: UNREAD,
    GONE: GONE,
}
LAST_ANSWERED: Transitions = {
    IDLE: CLOSING,
    UNREAD: CLOSING_UNREAD,
    ANSWERING: CLOSING,
    BLOCKED: CLOSING_UNREAD,
    GONE: GONE,
}
PAUSED: Transitions = {
    IDLE: UNREAD,
    UNREAD: UNREAD,
    ANSWERING: BLOCKED,
    BLOCKED: BLOCKED,
    CLOSING: CLOSING_UNREAD,
    CLOSING_UNREAD: CLOSING_UNREAD,
    GONE: GONE,
}
RESUMED: Transitions = {
    IDLE: IDLE,
    UNREAD: IDLE,
    ANSWERING: ANSWERING,
    BLOCKED: ANSWERING,
    CLOSING: CLOSING,
    CLOSING_UNREAD: CLOSING,
    GONE: GONE,
}
