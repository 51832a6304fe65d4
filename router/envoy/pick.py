"""One request that a proxy carries: the picker names the instance, the proxy sends it there and shows what comes
back."""

import asyncio
from collections.abc import Callable

from dualmap.router.access.access import Grant
from dualmap.router.apis.usage import Usage, peek_usage
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import HttpError, failed
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.journal.writer import Core
from dualmap.router.requests.driven import DrivenOwner
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.request import Request

FIRST_SERVER_ERROR_STATUS = 500
TAIL_BYTES = 4096  # of an answer; `usage` stands in the last event but one


class Pick:
    """See Driven. chosen: resolves to the instances in the order in which the proxy shall try them, as IP:PORT, or to
    the error that it shall answer with."""

    def __init__(
        self,
        owner: DrivenOwner,
        pick_id: str,
        request: HttpRequest,
        body: bytes,
        arrived_at: float,
        endpoints_of: Callable[[Dispatch], tuple[str, ...]],
    ) -> None:
        self.id = pick_id
        self.request = request
        self.request_id = request.client_request_id or pick_id.encode()
        self.body = body
        self.grant: Grant | None = None  # the proxy says whose requests it carries
        self.answer_lines = b""
        self.model = ""
        self.prompt_bytes = 0
        self.prompt_tokens = 0
        self.prompt_is_token_ids = False
        self.hides_usage = False
        self.core: Core
        self.asked: Request | None = None
        self.arrived_at = arrived_at
        self.first_byte_at = 0.0
        self.dispatch: Dispatch | None = None
        self.pieces = 0
        self.answer_begun = False
        self.event_stream = False
        self.chosen: asyncio.Future[tuple[str, ...] | HttpError] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._endpoints_of = endpoints_of
        self._status = 0
        self._tail = b""
        self._over = False

    # What its driver orders.

    @property
    def sent_pieces(self) -> int:
        return self.pieces

    def start_attempt(self, dispatch: Dispatch, pool: UpstreamPool, now: float) -> None:
        """A proxy that has been told where to go cannot be told again: `answered_by` says what it did instead."""
        self.dispatch = dispatch
        if not self.chosen.done():
            self.chosen.set_result(self._endpoints_of(dispatch))

    def drop_upstream(self) -> None:
        self.dispatch = None

    def is_stalled(self, now: float, first_byte_timeout_s: float, stall_timeout_s: float) -> bool:
        """That is for the proxy to find out."""
        return False

    def usage(self) -> Usage:
        return peek_usage(self._tail)

    def answer_error(self, error: HttpError) -> None:
        self._over = True
        if not self.chosen.done():
            self.chosen.set_result(error)

    def fail(self, cause: FailureCause) -> None:
        self.answer_error(failed(cause))

    # What the proxy shows.

    def answered(self, status: int, event_stream: bool, reached: bool) -> None:
        """The head of the answer. reached: an instance gave it, not the proxy itself."""
        self._status = status
        self.event_stream = event_stream
        self.answer_begun = True
        if not reached and status >= FIRST_SERVER_ERROR_STATUS and not self._over and self.dispatch is not None:
            self._owner.attempt_failed(self, FailureCause.CONNECT)
            self.dispatch = None  # whatever came of it, the proxy is done with the request

    def take(self, body: bytes) -> None:
        """Some of the answer's body."""
        if not body:
            return
        self.pieces += body.count(b"\ndata: {") + body.startswith(b"data: {") if self.event_stream else 1
        self._tail = (self._tail + body)[-TAIL_BYTES:]
        if not self.first_byte_at and not self._over:
            self._owner.first_byte(self)

    def end(self) -> None:
        """The answer is complete, or nothing more will be shown of it."""
        if self._over:
            return
        self._over = True
        if self.dispatch is not None and self._status:
            self._owner.finished(self, self._status)
        else:
            self._owner.cancelled(self)

    def left(self) -> None:
        """The client or the proxy has left."""
        if not self._over:
            self._over = True
            self._owner.cancelled(self)
