"""What goes into the simulated engine and what comes out of it."""

from collections.abc import Collection
from dataclasses import dataclass

from dualmap.instances.simulated.block_content import BlockContent


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """blocks: chained hashes of the full blocks of the prompt and, where known, of the answer that follows it; fewer
    than there are tokens for is allowed: the rest is never hit. output_tokens: how many the model will produce.
    priority: lower runs sooner. loads: another instance has computed its prompt, which is read from there. lends: its
    blocks are kept when it has ended, for another instance to read. content: what KV events say of the blocks beside
    their hashes; None: nothing."""

    request_id: str
    blocks: tuple[int, ...]
    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    loads: bool = False
    lends: bool = False
    content: BlockContent | None = None


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """Times in seconds on the caller's clock. cached_tokens: part of prompt_tokens, found in the cache at the first
    start, or all of it where it was read from another instance. lent_blocks: kept for another one."""

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    arrived_s: float
    started_s: float
    first_token_s: float
    finished_s: float
    lent_blocks: int = 0


@dataclass(frozen=True, slots=True)
class FirstToken:
    """A request's prompt is computed and its first token is there."""

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    ttft_s: float


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step produced: one token for each request in `decoding`, and the last one for each in `finished`.

    decoding: ids of the requests that go on, a view that the engine's next call changes.
    first_tokens: those of both whose first token this is.
    token_gaps_s: (seconds, requests): times since the token before, of requests that had one.
    """

    decoding: Collection[str]
    finished: list[FinishedRequest]
    first_tokens: list[FirstToken]
    token_gaps_s: list[tuple[float, int]]


@dataclass(slots=True)
class EngineCounters:
    """Totals since the start, in tokens where not said otherwise; names as in vLLM's metrics."""

    prompt_tokens: int = 0  # of requests whose prompt has been computed
    generation_tokens: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    external_prefix_cache_hits: int = 0  # read from other instances or from the tier behind the pool
    preemptions: int = 0  # times a request was
