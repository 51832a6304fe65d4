"""What the gateway has to know of a request's body, and what a body is read for."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, field
from enum import Enum, auto

from dualmap.scheduler.record import record


class WishForIds(Enum):
    """Of a stream's client: for the ids of its answer's tokens."""

    UNASKED = auto()  # it does not say, and ids would change nothing that it sees but for themselves
    ASKED = auto()  # it gets them
    UNWANTED = auto()  # it does not want them, or they would change its answer


UNASKED, ASKED, UNWANTED = WishForIds


@record
class Scope:
    """What a body is read for.

    block_tokens: see SchedulerConfig.
    apart: the tenant who shares no cached prefix with any other; empty: with all who have none.
    default_model: what a body that names no model is for; empty: that is not known.
    same_models: what models are called in the hashes of prompts, where that is not as the body calls them.
    splits: some instances only compute prompts, or only answer.
    """

    block_tokens: int
    apart: str = ""
    default_model: str = ""
    same_models: Mapping[str, str] = field(default_factory=dict)
    splits: bool = False


@record
class ReadBody:
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
    splits: one instance may compute the prompt, and another answer; told where the scope asks for it.
    """

    _: KW_ONLY
    understood: bool = True
    legible: bool = True
    model: str = ""
    blocks: tuple[int, ...] = ()
    text_bytes: int = 0
    media: Mapping[str, int] = field(default_factory=dict)
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
    splits: bool = False


NOT_UNDERSTOOD = ReadBody(understood=False)
