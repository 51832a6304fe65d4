"""What the router knows of an API. Each stands in a file of its own beside this one; nothing else names an endpoint.

An answer's end is the same for all: `usage` is read in usage.py, events of a stream in stream_rules.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import Enum, auto
from typing import Any

from dualmap.router.apis.read_body import NOT_UNDERSTOOD, ReadBody, Scope
from dualmap.router.apis.replayed import Replayed
from dualmap.router.apis.rest_by_ids import RestByIds
from dualmap.router.apis.stream_rules import OTHER_STREAM, StreamRules
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import ErrorShape, error_body
from dualmap.router.tokens.prompt_reader import PromptReader


class Placement(Enum):
    """Where a request goes."""

    PREFIX = auto()  # where the prefix of its prompt is, or belongs
    STATE = auto()  # to the instance that made what it names
    LOAD = auto()  # to the instance with the least to do
    ALL = auto()  # to every instance
    HERE = auto()  # nowhere: the gateway answers it


PREFIX, STATE, LOAD, ALL, HERE = Placement  # a name is found five times as fast as the attribute of an enum


Reader = Callable[[HttpRequest, bytes, Scope], ReadBody]


def read_nothing(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """For requests whose body is of no concern."""
    return NOT_UNDERSTOOD


def always(fields: bytes) -> Callable[[bytes], bytes]:
    """The same for any body."""
    return lambda body: fields


@dataclass(frozen=True, slots=True, eq=False)
class Api:
    """One API.

    name: as pages and spans call it.
    read: what a request's body says of it; never raises.
    error: how its clients expect an error.
    stream: what the events of a streamed answer mean.
    operation: OpenTelemetry's gen_ai.operation.name; empty where it has none.
    asks_usage: a stream reports `usage` where `stream_options` ask for it.
    takes_salt: bodies may have a `cache_salt`.
    makes_state: its answers name what their instance keeps.
    chooses_rank: a data-parallel server runs it on the engine that it likes, whichever is named.
    tokens: how its prompts are known by their tokens; None: they are not.
    rest: how another instance goes on with a stream; None: none can.
    by_text: how another instance goes on with a stream by its text, see rest_by_text.py; None: it does not.
    one_token: the last fields of a body that make its answer one token and no stream, each behind a comma: of several
    fields of a name the last one counts; None: its bodies have no `kv_transfer_params`.
    replayed: how a stream is compared that another instance makes again; None: it is not.
    """

    name: str
    placement: Placement
    _: KW_ONLY
    read: Reader = read_nothing
    error: ErrorShape = error_body
    stream: StreamRules = OTHER_STREAM
    operation: str = ""
    asks_usage: bool = False
    takes_salt: bool = False
    makes_state: bool = False
    chooses_rank: bool = False
    one_token: Callable[[bytes], bytes] | None = None
    tokens: PromptReader | None = None
    rest: RestByIds | None = None
    replayed: Callable[[], Replayed] | None = None
    by_text: Callable[[Mapping[str, Any], Sequence[bytes]], tuple[dict[str, Any], int] | None] | None = None
