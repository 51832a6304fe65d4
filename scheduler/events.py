"""Facts the driver tells the core, in the past tense. Times are not in them: `handle(event, now)` carries the time."""

from dataclasses import KW_ONLY
from enum import StrEnum

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.record import record
from dualmap.scheduler.request import Request
from dualmap.scheduler.role import Role
from dualmap.scheduler.snapshot import Move


class FailureCause(StrEnum):
    """Why an attempt failed."""

    CONNECT = "connect"  # no connection could be made: the instance never saw the request
    REFUSED = "refused"  # the instance answered that it takes no more (HTTP 503, 429)
    BROKEN = "broken"  # the connection broke, what came was no answer, or a proxy says so (HTTP 408, 502, 504, a page)
    STALLED = "stalled"  # no byte for longer than the stall time-out
    ABORTED = "aborted"  # the instance ended the answer by itself: it shuts down, or its engine failed
    ERROR = "error"  # the instance answered with HTTP 500
    UNAUTHORIZED = "unauthorized"  # the instance wants another key than the gateway's (HTTP 401)
    INSTANCE_LOST = "instance_lost"
    NOT_HERE = "not_here"  # the instance keeps no such state, or serves no such model any more (HTTP 404); another may
    TOO_LONG = "too_long"  # prompt and answer are more than the instance takes (HTTP 400); another one takes more
    LEG_REFUSED = "leg_refused"  # the instance refused a leg (HTTP 400, 422), perhaps for what makes it one


@record
class ServedModel:
    """A model by a name that requests give it. max_tokens: the longest prompt and answer together (vLLM:
    max_model_len); 0: not known."""

    name: str
    max_tokens: int = 0


@record
class InstanceJoined:
    """The instance is ready. A higher incarnation replaces a lower one: another process, with an empty cache. The same
    one again: it drains no more, offers other models, or keeps
    another amount of prefixes than it seemed to. adapters: LoRA adapters it can run, by the names that requests
    give them. models: what else it serves, by each name; empty: it may serve any. role: which parts of requests it
    takes. revision: instances of the same one can read what the others of it have computed."""

    instance_id: str
    incarnation: int = 0
    capacity: InstanceCapacity = InstanceCapacity()
    _: KW_ONLY
    adapters: tuple[str, ...] = ()
    models: tuple[ServedModel, ...] = ()
    role: Role = Role.BOTH
    revision: str = ""


@record
class InstanceDraining:
    """The instance takes no new requests; those that run there end."""

    instance_id: str
    incarnation: int


@record
class InstanceLost:
    """The instance is gone: died, removed, or drained."""

    instance_id: str
    incarnation: int
    cause: str


@record
class RequestArrived:
    """A client asks for an answer."""

    request: Request


@record
class FirstToken:
    """The driver saw the first output of the attempt, which is no prefill leg."""

    request_id: str
    attempt: int


@record
class PrefillDone:
    """The prefill leg is complete: what it has computed waits to be fetched. cached_tokens and prompt_tokens are the
    instance's own count (`usage`), where it gave one."""

    request_id: str
    attempt: int
    _: KW_ONLY
    cached_tokens: int | None = None
    prompt_tokens: int | None = None


@record
class ServedElsewhere:
    """The proxy that carries the attempt could not reach its instance, and went on to another one by itself."""

    request_id: str
    attempt: int
    instance_id: str


@record
class RequestFinished:
    """The answer is complete. cached_tokens and prompt_tokens are the instance's own count (`usage`), where it gave
    one."""

    request_id: str
    attempt: int
    output_tokens: int
    _: KW_ONLY
    cached_tokens: int | None = None
    prompt_tokens: int | None = None


@record
class RequestFailed:
    """The attempt broke. tokens_sent: what the client has been sent of it; with 0 it can run elsewhere."""

    request_id: str
    attempt: int
    tokens_sent: int
    _: KW_ONLY
    cause: FailureCause


@record
class StreamContinued:
    """The client has part of an answer that its instance cannot complete, as FailStream said. request: what is left of
    it, by the same id. tried: instances that failed it."""

    request: Request
    tried: tuple[str, ...]


@record
class RequestCancelled:
    """The client left. The driver has closed the attempt's upstream connection itself."""

    request_id: str


@record
class BlocksStored:
    """The instance reported that it holds these blocks: the beginning of a prompt, from its first block on. tier: the
    one that has got them, if it is not the KV pool (tiers.py); these may be any blocks."""

    instance_id: str
    blocks: tuple[int, ...]
    tier: str = ""


@record
class BlocksRemoved:
    """The instance reported that it dropped these blocks. tier: the one that dropped them, if not its KV pool."""

    instance_id: str
    blocks: tuple[int, ...]
    tier: str = ""


@record
class CacheCleared:
    """The instance's prefix cache was reset, with its own tiers."""

    instance_id: str


@record
class LoadReported:
    """The instance said how it does (vLLM: /metrics), expected about each second: requests it runs, requests that wait
    in it, the share of its KV pool that these hold (0 to 1). age_s: since it was so. adapters: the LoRA adapters of
    what runs."""

    instance_id: str
    running: int
    waiting: int
    _: KW_ONLY
    kv_used: float
    age_s: float = 0.0
    adapters: tuple[str, ...] = ()


@record
class InstanceLoad:
    """What a gateway has booked on an instance: requests dispatched and not ended, prefill work dispatched and not
    computed, prefill work that waits, KV cache reserved. waiting: requests that wait for it. seconds_per_token: its
    learned pace; 0 where it is not said. saved_tokens: prompt tokens found cached there lately (InstanceView).
    head_age_s: since the request that starts next took its place in the queue, below 0 where that is still to come;
    None where nobody waits who can be in time."""

    instance_id: str
    running: int
    prefilling_tokens: int
    _: KW_ONLY
    waiting_tokens: int
    kv_tokens: int
    waiting: int = 0
    seconds_per_token: float = 0.0
    saved_tokens: int = 0
    head_age_s: float | None = None


@record
class GatewayLoads:
    """What the other gateways together had booked when they last said so, which replaces what was said before, and the
    prompts they have sent since then, as (instance id, blocks). age_s: since they said it. told_s: since this gateway
    said what it had booked itself, which they will hear before their next news; None where it cannot be told when."""

    loads: tuple[InstanceLoad, ...]
    sent: tuple[tuple[str, tuple[int, ...]], ...] = ()
    age_s: float = 0.0
    _: KW_ONLY
    told_s: float | None = None


@record
class PrefixDepths:
    """What all gateways have agreed on: how many blocks form the keys below a hot one, as (key, depth), and on how many
    instances a prompt is spread, as (its last block, homes). A higher epoch replaces a lower one whole."""

    epoch: int
    depths: tuple[tuple[int, int], ...]
    homes: tuple[tuple[int, int], ...] = ()


@record
class MovesProposed:
    """A rebalancing plan made on the snapshot of that version; each move is checked again before it is applied."""

    moves: tuple[Move, ...]
    version: int


@record
class SettingsChanged:
    """Other settings hold from now on; of these, the core takes over LIVE_SETTINGS."""

    config: SchedulerConfig


@record
class Tick:
    """Time has passed. Expects one each 0.1 s or so: time-outs and assumed first tokens hang on it."""


Event = (
    InstanceJoined
    | InstanceDraining
    | InstanceLost
    | RequestArrived
    | FirstToken
    | PrefillDone
    | ServedElsewhere
    | RequestFinished
    | RequestFailed
    | StreamContinued
    | RequestCancelled
    | BlocksStored
    | BlocksRemoved
    | CacheCleared
    | LoadReported
    | GatewayLoads
    | PrefixDepths
    | MovesProposed
    | SettingsChanged
    | Tick
)
