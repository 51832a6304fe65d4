"""Workloads for where no trace is at hand and for what traces lack: one prefix that all share, or none at all.

`synth:hot`: one system prompt of 12 blocks, and behind it tails shorter than a block, so that no block tells requests
apart and one instance, or two, would have to serve them all. `synth:hot-short`: with answers of 1 to 20 tokens.
`synth:hot-60`: 60 % of the requests so, the others with 12 blocks of their own. `synth:low-reuse`: nothing is shared;
prompts of 8,000 tokens and answers of 340 on average, about as in Mooncake's conversation trace.
"""

import random
from collections.abc import Callable

from dualmap.loadtest.traces.synth import Lognormal
from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceError
from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.scheduler.blocks import hash_trace_ids

PREFIX = "synth:"
REQUESTS = 8000
MEAN_GAP_S = 0.25  # between arrivals, at random; a study brings them to its own rate
HOT_BLOCKS = 12
_TAIL = Lognormal(403, 0.9, 0, 450)  # tokens behind the system prompt, on top of 20
_UNSHARED_PROMPT = Lognormal(6500, 0.8, 16, 20_480)  # 8,000 on average

Lengths = Callable[[random.Random], int]


def is_synthetic(trace: str) -> bool:
    return trace.startswith(PREFIX)


def synthetic(trace: str, requests: int = REQUESTS, seed: int = 0) -> Workload:
    """The workload of a name. Raises TraceError for one that there is not."""
    match trace:
        case "synth:hot":
            return hot_prefix(trace, requests, seed)
        case "synth:hot-short":
            return hot_prefix(trace, requests, seed, output=lambda rng: rng.randint(1, 20))
        case "synth:hot-60":
            return hot_prefix(trace, requests, seed, hot_share=0.6)
        case "synth:low-reuse":
            return low_reuse(trace, requests, seed)
    known = "hot, hot-short, hot-60, low-reuse"
    raise TraceError(f"{trace}: no such workload; after {PREFIX} comes one of {known}")


def _answer(rng: random.Random, mean_tokens: float = 350.0) -> int:
    return max(1, int(rng.expovariate(1 / mean_tokens)))


def hot_prefix(
    name: str, requests: int, seed: int = 0, *, hot_share: float = 1.0, output: Lengths = _answer
) -> Workload:
    """hot_share: of the requests, those with the common system prompt. output: draws the tokens of an answer."""
    rng = random.Random(f"{seed} hot")
    found: list[WorkRequest] = []
    common = hash_trace_ids(range(HOT_BLOCKS))
    now_s = 0.0
    for number in range(1, requests + 1):
        own = range(number * HOT_BLOCKS, (number + 1) * HOT_BLOCKS)
        blocks = common if rng.random() < hot_share else hash_trace_ids(own)
        tokens = HOT_BLOCKS * BLOCK_TOKENS + 20 + int(_TAIL.draw(rng))
        found.append(WorkRequest(now_s, tokens, output(rng), blocks, session=number - 1))
        now_s += rng.expovariate(1 / MEAN_GAP_S)
    return Workload(name, found)


def low_reuse(name: str, requests: int, seed: int = 0) -> Workload:
    """No two prompts begin alike."""
    rng = random.Random(f"{seed} low reuse")
    found: list[WorkRequest] = []
    now_s, first_id = 0.0, 0
    for number in range(requests):
        tokens = int(_UNSHARED_PROMPT.draw(rng))
        ids = range(first_id, first_id + tokens // BLOCK_TOKENS)
        first_id = ids.stop
        found.append(WorkRequest(now_s, tokens, _answer(rng, 340.0), hash_trace_ids(ids), session=number))
        now_s += rng.expovariate(1 / MEAN_GAP_S)
    return Workload(name, found)
