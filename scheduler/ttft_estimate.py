"""Estimate of the time to first token (TTFT) of a request at an instance.

TTFT = tokens that must be computed before the first token x seconds per token (arXiv 2602.06502, section 3.3). The
tokens are those of prompts dispatched and not yet prefilled, of prompts waiting for the instance, and of this
prompt, as far as not cached.
"""

from dataclasses import KW_ONLY

from dualmap.scheduler.record import record
from dualmap.scheduler.request import Request
from dualmap.scheduler.tiers import Loads


@record
class TtftEstimate:
    """work_tokens: prefill work of this prompt (Service.work_tokens). prefill_s: to compute its uncached tokens;
    total_s: the same, all that is ahead of it, and what it loads: that keeps nobody else waiting.
    running: requests dispatched to the instance and not ended: they slow each other's answers.
    held_tokens: cached_tokens less the work of loading them from tiers behind the pool, which `loads` has; and not less
    than what is common to a hot prefix, which soon is everywhere. shared_s: of prefill_s, what computes such a prefix.
    tpot_s: seconds per output token there once this request decodes, too; tpot_slo_s: the strictest objective of those
    that would; 0 where there is none. lag_s: so much longer than elsewhere in the fleet an output token takes there.
    """

    instance_id: str
    cached_tokens: int
    uncached_tokens: int
    _: KW_ONLY
    work_tokens: int
    running: int
    prefill_s: float
    total_s: float
    held_tokens: int
    shared_s: float = 0.0
    tpot_s: float = 0.0
    tpot_slo_s: float = 0.0
    lag_s: float = 0.0
    loads: Loads | None = None


def cached_tokens(request: Request, cached_blocks: int, block_tokens: int) -> int:
    """Tokens of the prompt that need no computation; the last one is always computed, since it yields the first
    output. block_tokens: where the request does not say."""
    tokens = cached_blocks * (request.block_tokens or block_tokens)
    return tokens if tokens < request.prompt_tokens else max(0, request.prompt_tokens - 1)
