"""One request that a proxy carries: the picker names the instance, the proxy sends it there and shows what comes
back."""

import asyncio
from collections.abc import Callable

from dualmap.router.apis.state_ids import StateSeeker
from dualmap.router.apis.usage import Usage, peek_usage
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.openai_errors import HttpError, failed
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.legs.handoff import Handoff
from dualmap.router.requests.asked import Arrived, Asked
from dualmap.router.requests.driven import Driven, DrivenOwner
from dualmap.router.requests.instance_work import InstanceWork
from dualmap.router.requests.phase import ANSWERING, BEGUN, DISPATCHED, DROPPED, ENDED, OVER, RUNNING, WAITING
from dualmap.router.requests.rest import Rest
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause, StreamContinued

FIRST_REDIRECT_STATUS = 300
FIRST_SERVER_ERROR_STATUS = 500
TAIL_BYTES = 4096  # of an answer; `usage` stands in the last event but one


class PickedRun:
    """See Run: what the proxy shows of the answer."""

    def __init__(self, dispatch: Dispatch) -> None:
        self.dispatch = dispatch
        self.status = 0
        self.pieces = 0
        self.event_stream = False
        self.first_byte_at = 0.0
        self.seeker: StateSeeker | None = None  # of an answer that says what its instance keeps
        self._tail = b""

    @property
    def sent_pieces(self) -> int:
        return self.pieces

    def take(self, body: bytes) -> None:
        self.pieces += body.count(b"\ndata: {") + body.startswith(b"data: {") if self.event_stream else 1
        self._tail = (self._tail + body)[-TAIL_BYTES:]

    def usage(self) -> Usage:
        return peek_usage(self._tail)

    own_usage = usage


class Pick(Driven):
    """See Driven. chosen: resolves to the instances in the order in which the proxy shall try them, as IP:PORT, or to
    the error that it shall answer with. running: None as well once the attempt is off the books. said: proxies do not
    tell. rest: what is left of an answer would be the proxy's to ask for. handoff: a proxy sends a request once."""

    running: PickedRun | None = None

    def __init__(
        self, owner: DrivenOwner, arrived: Arrived, endpoints_of: Callable[[Dispatch], tuple[str, ...]]
    ) -> None:
        self.arrived = arrived
        self.asked: Asked
        self.phase = WAITING
        self.said: HttpError | None = None
        self.rest: Rest | None = None
        self.handoff: Handoff | None = None
        self.why_cut = ""
        self.chosen: asyncio.Future[tuple[str, ...] | HttpError] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._endpoints_of = endpoints_of

    # What its driver orders.

    def admitted(self, asked: Asked) -> None:
        self.asked = asked

    def start_attempt(self, dispatch: Dispatch, pool: UpstreamPool, now: float) -> None:
        """A proxy that has been told where to go cannot be told again: `note_served` says what it did instead."""
        self.phase = DISPATCHED[self.phase]
        self.running = PickedRun(dispatch)
        if not self.chosen.done():
            self.chosen.set_result(self._endpoints_of(dispatch))

    def drop_attempt(self) -> None:
        self.phase = DROPPED[self.phase]
        self.running = None

    def is_stalled(self, now: float, limits: HttpLimits, work: InstanceWork) -> bool:
        """That is for the proxy to find out."""
        return False

    def keep_open(self, now: float, heartbeat_s: float) -> None:
        """The answer is the proxy's."""

    def complete(self) -> bool:
        return False

    def go_on_elsewhere(self, cause: FailureCause, most: int, context_tokens: int) -> StreamContinued | None:
        return None

    def answer_error(self, error: HttpError) -> None:
        self.phase = ENDED[self.phase]
        if not self.chosen.done():
            self.chosen.set_result(error)

    def fail(self, cause: FailureCause) -> None:
        self.answer_error(failed(cause))

    def let_go(self) -> None:
        self.running = None

    # What the proxy shows.

    def answered(self, status: int, event_stream: bool, reached: bool) -> None:
        """The head of the answer. reached: an instance gave it, not the proxy itself."""
        run = self.running
        if run is None or self.phase is not RUNNING:
            return
        if not reached and status >= FIRST_SERVER_ERROR_STATUS:
            self.phase = DROPPED[self.phase]
            self._owner.attempt_failed(self, run, FailureCause.CONNECT)
            self.drop_attempt()  # whatever came of it, the proxy is done with the request
            return
        self.phase = BEGUN[self.phase]
        run.status, run.event_stream = status, event_stream
        if self.arrived.api.makes_state and self.asked.prompt.read.stored and status < FIRST_REDIRECT_STATUS:
            run.seeker = StateSeeker(event_stream)

    def take(self, body: bytes) -> None:
        """Some of the answer's body."""
        run = self.running
        if run is None or not body:
            return
        run.take(body)
        if run.seeker is not None and run.seeker.seeks and (state_id := run.seeker.feed(body, complete=False)):
            self._owner.state_made(self, run, state_id)
        if not run.first_byte_at and self.phase is ANSWERING:
            self._owner.first_byte(self, run)

    def end(self) -> None:
        """The answer is complete, or nothing more will be shown of it."""
        run = self.running
        if self.phase is ANSWERING and run is not None and run.status:
            self.phase = ENDED[self.phase]
            self._owner.finished(self, run, run.status)
        else:
            self.left()

    def left(self) -> None:
        """The client or the proxy has left."""
        if self.phase is not OVER:
            self.phase = ENDED[self.phase]
            self._owner.cancelled(self)
