"""A request as its driver sees it, whoever carries it to an instance: this gateway itself (exchange.py), or a proxy
that asks where to (pick.py)."""

from typing import Protocol

from dualmap.router.access.access import Grant
from dualmap.router.apis.usage import Usage
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import HttpError
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.journal.writer import Core
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.request import Request


class Driven(Protocol):
    """id: unique in this process and the core's name for the request. request_id: what client and instance call it.
    body: as the instance gets it. grant: what its API key allows; None where no keys are asked for. answer_lines: more
    of its answer's head. model: empty where the body was not read. prompt_bytes: see Peeked. prompt_tokens:
    as told to the core. hides_usage: see AnswerEvents. core: of the pool that serves it; set before any event.
    asked: what the core was told; None where it was refused before.
    arrived_at, first_byte_at: in the gateway's clock, seconds; first_byte_at is 0 until it has come.
    dispatch: the current attempt as the core ordered it. pieces: of its answer's body, in a stream one each token or
    so. sent_pieces: how many of them the client has. event_stream: the answer is server-sent events.
    """

    id: str
    request: HttpRequest
    request_id: bytes
    body: bytes
    grant: Grant | None
    answer_lines: bytes
    model: str
    prompt_bytes: int
    prompt_tokens: int
    prompt_is_token_ids: bool
    hides_usage: bool
    core: Core
    asked: Request | None
    arrived_at: float
    first_byte_at: float
    dispatch: Dispatch | None
    pieces: int
    answer_begun: bool
    event_stream: bool

    @property
    def sent_pieces(self) -> int: ...

    def start_attempt(self, dispatch: Dispatch, pool: UpstreamPool, now: float) -> None: ...

    def drop_upstream(self) -> None:
        """The attempt is off the books."""
        ...

    def is_stalled(self, now: float, first_byte_timeout_s: float, stall_timeout_s: float) -> bool: ...

    def usage(self) -> Usage: ...

    def answer_error(self, error: HttpError) -> None: ...

    def fail(self, cause: FailureCause) -> None: ...


class DrivenOwner(Protocol):
    """Who is told what becomes of a request, so that the books of the core follow: its driver."""

    def first_byte(self, exchange: Driven) -> None: ...

    def finished(self, exchange: Driven, status: int) -> None: ...

    def attempt_failed(self, exchange: Driven, cause: FailureCause) -> None: ...

    def cancelled(self, exchange: Driven) -> None: ...
