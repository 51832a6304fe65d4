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


_P = ConnectionPhase
Transitions = Mapping[ConnectionPhase, ConnectionPhase]  # a phase that is no key is impossible then

BEGUN: Transitions = {_P.IDLE: _P.ANSWERING, _P.UNREAD: _P.BLOCKED}
ANSWERED: Transitions = {
    _P.IDLE: _P.IDLE,  # at once
    _P.UNREAD: _P.UNREAD,
    _P.ANSWERING: _P.IDLE,
    _P.BLOCKED: _P.UNREAD,
    _P.GONE: _P.GONE,
}
LAST_ANSWERED: Transitions = {
    _P.IDLE: _P.CLOSING,
    _P.UNREAD: _P.CLOSING_UNREAD,
    _P.ANSWERING: _P.CLOSING,
    _P.BLOCKED: _P.CLOSING_UNREAD,
    _P.GONE: _P.GONE,
}
PAUSED: Transitions = {
    _P.IDLE: _P.UNREAD,
    _P.UNREAD: _P.UNREAD,
    _P.ANSWERING: _P.BLOCKED,
    _P.BLOCKED: _P.BLOCKED,
    _P.CLOSING: _P.CLOSING_UNREAD,
    _P.CLOSING_UNREAD: _P.CLOSING_UNREAD,
    _P.GONE: _P.GONE,
}
RESUMED: Transitions = {
    _P.IDLE: _P.IDLE,
    _P.UNREAD: _P.IDLE,
    _P.ANSWERING: _P.ANSWERING,
    _P.BLOCKED: _P.ANSWERING,
    _P.CLOSING: _P.CLOSING,
    _P.CLOSING_UNREAD: _P.CLOSING,
    _P.GONE: _P.GONE,
}
