"""A request as its driver sees it, whoever carries it to an instance: this gateway itself (Exchange), or a proxy that
asks where to (Pick). Driven is a class, not a Protocol: machine code reads its attributes ten times as fast."""

from typing import Protocol

from dualmap.router.apis.usage import Usage
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.mypyc_attr import mypyc_attr
from dualmap.router.http.openai_errors import HttpError
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.legs.handoff import Handoff
from dualmap.router.requests.answer_spool import SpoolRoom
from dualmap.router.requests.asked import Arrived, Asked
from dualmap.router.requests.instance_work import InstanceWork
from dualmap.router.requests.phase import Phase
from dualmap.router.requests.replay import Replay
from dualmap.router.requests.rest import Rest
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause, StreamContinued


class Run(Protocol):
    """An attempt, from its Dispatch until the next one's or the end of the request.

    pieces: of the answer's body that have come, in a stream one each token or so.
    sent_pieces: how many of them the client has.
    event_stream: the answer is server-sent events.
    first_byte_at: when the client was sent the first of it, in the gateway's clock, seconds; 0 until then. The driver
    notes it.
    """

    dispatch: Dispatch
    pieces: int
    event_stream: bool
    first_byte_at: float

    @property
    def sent_pieces(self) -> int: ...

    def usage(self) -> Usage: ...

    def own_usage(self) -> Usage:
        """Of the attempt's own part, where the answer has been others' before."""
        ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Driven:
    """asked: once it is admitted. said: what the last instance that failed at it said went wrong; None where none said
    anything. rest: what the attempt is about, where the client has part of an answer that another instance began.
    why_cut: why no other instance goes on with an answer that was cut. handoff: what its prefill leg has left, if the
    attempt is a decode leg."""

    __slots__ = ("arrived", "asked", "handoff", "phase", "rest", "said", "why_cut")
    arrived: Arrived
    asked: Asked
    phase: Phase
    why_cut: str
    rest: Rest | Replay | None
    handoff: Handoff | None
    said: HttpError | None

    @property
    def running(self) -> Run | None:
        """The last attempt; None before the first."""
        raise NotImplementedError

    def admitted(self, asked: Asked) -> None:
        """Take what is asked for; once more where more has been learned of the prompt."""
        raise NotImplementedError

    def start_attempt(self, dispatch: Dispatch, pool: UpstreamPool, now: float) -> None:
        raise NotImplementedError

    def drop_attempt(self) -> None:
        """The attempt is off the books."""
        raise NotImplementedError

    def is_stalled(self, now: float, limits: HttpLimits, work: InstanceWork) -> bool:
        raise NotImplementedError

    def keep_open(self, now: float, heartbeat_s: float) -> None:
        """Send a comment to a client who has waited so long for the first token of a stream; called periodically."""
        raise NotImplementedError

    def complete(self) -> bool:
        """Its attempt has failed in mid-answer: end the answer where the client has all of it but its end, and say
        whether that is so."""
        raise NotImplementedError

    def go_on_elsewhere(self, cause: FailureCause, most: int, context_tokens: int) -> StreamContinued | None:
        """Its attempt has failed in mid-answer: what is left, for another instance, or None where none can go on with
        it. most: how many times it may. context_tokens: the longest prompt and answer that instances take; 0: not
        known."""
        raise NotImplementedError

    def answer_error(self, error: HttpError) -> None:
        """End it with an error; the client has had nothing of an answer."""
        raise NotImplementedError

    def fail(self, cause: FailureCause) -> None:
        """End it with an error, however much the client has had."""
        raise NotImplementedError

    def let_go(self) -> None:
        """It is over, and all have been told: let go of its attempt."""
        raise NotImplementedError


class DrivenOwner:
    """Who is told what becomes of a request, so that the books of the core follow: its driver."""

    spool_room: SpoolRoom

    def first_byte(self, driven: Driven, run: Run) -> None:
        raise NotImplementedError

    def state_made(self, driven: Driven, run: Run, state_id: str) -> None:
        raise NotImplementedError

    def prefilled(self, driven: Driven, run: Run, handoff: Handoff) -> None:
        raise NotImplementedError

    def finished(self, driven: Driven, run: Run, status: int) -> None:
        raise NotImplementedError

    def attempt_failed(self, driven: Driven, run: Run, cause: FailureCause) -> None:
        raise NotImplementedError

    def cancelled(self, driven: Driven) -> None:
        raise NotImplementedError
