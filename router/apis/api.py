"""What the router knows of an API. Each stands in a file of its own beside this one; nothing else names an endpoint.

An answer's end is the same for all: `usage` is read in usage.py, events of a stream in stream_rules.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from enum import Enum, auto
from typing import Any

import msgspec

from dualmap.router.apis.replayed import Replayed
from dualmap.router.apis.rest_by_ids import RestByIds
from dualmap.router.apis.stream_rules import OTHER_STREAM, StreamRules
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import ErrorShape, error_body
from dualmap.router.tokens.prompt_reader import PromptReader
from dualmap.router.tokens.token_ratio import NO_MEDIA


class Placement(Enum):
    """Where a request goes."""

    PREFIX = auto()  # where the prefix of its prompt is, or belongs
    STATE = auto()  # to the instance that made what it names
    LOAD = auto()  # to the instance with the least to do
    ALL = auto()  # to every instance
    HERE = auto()  # nowhere: the gateway answers it


PREFIX, STATE, LOAD, ALL, HERE = Placement  # a name is found five times as fast as the attribute of an enum


class WishForIds(Enum):
    """Of a stream's client: for the ids of its answer's tokens."""

    UNASKED = auto()  # it does not say, and ids would change nothing that it sees but for themselves
    ASKED = auto()  # it gets them
    UNWANTED = auto()  # it does not want them, or they would change its answer


UNASKED, ASKED, UNWANTED = WishForIds


class Scope(msgspec.Struct, frozen=True, gc=False):
    """What a body is read for.

    block_tokens: see SchedulerConfig.
    apart: the tenant who shares no cached prefix with any other; empty: with all who have none.
    default_model: what a body that names no model is for; empty: that is not known.
    same_models: what models are called in the hashes of prompts, where that is not as the body calls them.
    """

    block_tokens: int
    apart: str = ""
    default_model: str = ""
    same_models: Mapping[str, str] = {}


class ReadBody(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a body says of its request, as far as the gateway has to know.

    understood: the body is what the API takes. What is not understood goes to an instance all the same: it takes more
    than the gateway reads, or says what is wrong.
    legible: what model the body names, if any, can be told; else whoever gets it refuses it.
    model: empty where none is named.
    blocks: see scheduler.blocks.
    text_bytes: UTF-8 bytes of the prompt's texts, tools included; not of pictures and other media.
    media: how many of each kind.
    hashed_bytes: length of what the blocks are made of.
    prompt_tokens: exact length where the prompt is token ids, else 0.
    cached: the prompt's blocks are in the instance's cache afterwards.
    stream_options: the client said something of them.
    max_output_tokens: 0 where the client did not say.
    priority: None where the client did not say.
    cache_salt: the client's, or one of the tenant's own.
    session: what the client names its session; empty where it does not.
    state: id of what an instance has kept, on which the request goes on; empty: of nothing.
    stored: the instance keeps what it answers, where it is one that does.
    ids: see WishForIds; of a stream.
    repeats: the answer, a stream, is the same whenever it is made.
    """

    understood: bool = True
    legible: bool = True
    model: str = ""
    blocks: tuple[int, ...] = ()
    text_bytes: int = 0
    media: Mapping[str, int] = NO_MEDIA
    hashed_bytes: int = 0
    prompt_tokens: int = 0
    cached: bool = True
    stream: bool = False
    stream_options: bool = False
    max_output_tokens: int = 0
    priority: int | None = None
    cache_salt: str = ""
    session: str = ""
    state: str = ""
    stored: bool = True
    ids: WishForIds = UNWANTED
    repeats: bool = False


NOT_UNDERSTOOD = ReadBody(understood=False)

Reader = Callable[[HttpRequest, bytes, Scope], ReadBody]


def read_nothing(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """For requests whose body is of no concern."""
    return NOT_UNDERSTOOD


@dataclass(frozen=True, slots=True)
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
    tokens: how its prompts are known by their tokens; None: they are not.
    rest: how another instance goes on with a stream; None: none can.
    by_text: how another instance goes on with a stream by its text, see rest_by_text.py; None: it does not.
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
    tokens: PromptReader | None = None
    rest: RestByIds | None = None
    replayed: Callable[[], Replayed] | None = None
    by_text: Callable[[Mapping[str, Any], Sequence[bytes]], tuple[dict[str, Any], int] | None] | None = None

    __hash__ = object.__hash__
