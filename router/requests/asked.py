"""What a client asks: as it came, and as the core and an instance get it. Neither is changed once it is there."""

from dataclasses import KW_ONLY

from dualmap.router.access.access import Grant
from dualmap.router.apis.api import Api
from dualmap.router.apis.read_body import ReadBody
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.legs.connector import Connector
from dualmap.router.requests.core import Core
from dualmap.scheduler.record import record
from dualmap.scheduler.request import Request


@record
class Arrived:
    """A request as it came.

    id: unique in this process, and the core's name for the request.
    request_id: what client and instance call it.
    body: as the client sent it.
    at: when it had come whole, in the gateway's clock, seconds.
    grant: what its API key allows; None where no keys are asked for.
    only: ids of the instances that it may run on; empty: any.
    """

    _: KW_ONLY
    id: str
    request_id: bytes
    http: HttpRequest
    api: Api
    body: bytes
    at: float
    grant: Grant | None = None
    only: tuple[str, ...] = ()


@record
class Prompt:
    """What was read of a request's body.

    body: as the instance gets it.
    model: as the instance knows it; empty where none is named, nor known. named: the same as the client knows it.
    tokens: length of the prompt, an estimate unless it is token ids.
    block_tokens, priority: see scheduler.Request.
    read: what the body says.
    by_text: another instance may go on with its answer by the text, see replay.py.
    may_replay: another instance may make its answer again, see replay.py.
    hides_usage: see AnswerEvents. records_ids: its answer may tell token ids, which are kept. hides_ids: they are asked
    for by the gateway alone.
    """

    _: KW_ONLY
    body: bytes
    tokens: int
    read: ReadBody
    model: str = ""
    named: str = ""
    block_tokens: int = 0
    priority: int = 0
    hides_usage: bool = False
    records_ids: bool = False
    hides_ids: bool = False
    may_replay: bool = False
    by_text: bool = False


@record
class Asked:
    """A request that was admitted.

    request: what the core is told.
    core: of the pool that serves it.
    other_cores: of the pools that are asked next, where it is not known which one keeps what it goes on from.
    answer_lines: what the head of its answer says of its API key.
    connector: how the prompt is handed over, where another instance may compute it than the one that answers.
    """

    _: KW_ONLY
    prompt: Prompt
    request: Request
    core: Core
    other_cores: tuple[Core, ...] = ()
    answer_lines: bytes = b""
    connector: Connector | None = None
