"""How much a cluster can bear: the arrival rate at which round_robin keeps instances busy for a share of the time."""

from collections import OrderedDict
from collections.abc import Sequence

from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceRequest


def round_robin_qps(
    requests: Sequence[TraceRequest],
    instances: int,
    prefill_s_per_token: float,
    *,
    kv_tokens: int,
    share: float = 0.8,
    step_s: float = 0.010,
    decode_s_per_token: float = 0.00003,
    decode_s_per_context_token: float = 3.8e-8,
) -> float:
    """Requests a second over all instances, for the trace's own order and mix.

    A request keeps its instance busy for its uncached prompt tokens, one step's fixed cost, and for each output token
    what that adds to a step: its own cost and the reading of its context. Steps without prefill cost nothing here,
    since a prefill can start in the next one. The decode defaults are those of the simulated engine.

    Raises ValueError for no requests, no instances or a share that is not above 0.
    """
    if not requests or instances < 1 or not share > 0:
        raise ValueError(f"needs requests, instances and a share above 0: found {len(requests)}, {instances}, {share}")
    prefill_s = sum(round_robin_uncached(requests, instances, kv_tokens)) * prefill_s_per_token
    decode_s = sum(
        r.output_length * (decode_s_per_token + decode_s_per_context_token * (r.input_length + r.output_length / 2))
        for r in requests
    )
    busy_s_per_request = (prefill_s + decode_s) / len(requests) + step_s
    return share * instances / busy_s_per_request


def round_robin_uncached(requests: Sequence[TraceRequest], instances: int, kv_tokens: int) -> list[int]:
    """Prompt tokens each request has to compute when request i runs on instance i % instances.

    Every instance has an LRU cache of kv_tokens in blocks of BLOCK_TOKENS. Only full blocks are kept, and the last
    token of a prompt is always computed, as in vLLM.
    """
    caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(instances)]
    return [
        _compute(request, caches[index % instances], kv_tokens // BLOCK_TOKENS)
        for index, request in enumerate(requests)
    ]


def _compute(request: TraceRequest, cache: OrderedDict[int, None], room_blocks: int) -> int:
    """Tokens not found in the cache, which holds the request's full blocks afterwards, the most recent last."""
    full = request.hash_ids[: request.full_blocks]
    cached_blocks = next((i for i, block_id in enumerate(full) if block_id not in cache), len(full))
    # a prefix is used as a whole, so its end is the first to go
    for block_id in reversed(full):
        cache[block_id] = None
        cache.move_to_end(block_id)
    while len(cache) > room_blocks:
        cache.popitem(last=False)
    return max(request.input_length - cached_blocks * BLOCK_TOKENS, 1)
