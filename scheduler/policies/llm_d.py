"""llm-d's router: a weighted sum of three scores, each from 0 to 1; the highest sum wins.

Source: llm-d/llm-d-router (once llm-d-inference-scheduler and the endpoint picker of gateway-api-inference-extension):
config/charts/routerlib/templates/_config.yaml (default-plugins.yaml: which scorers, and their weights) and
pkg/epp/framework/plugins/scheduling/scorer/{queuedepth,kvcacheutilization,prefix}.
- queue: prompts in the engine that are not computed, scaled so that the shortest queue is 1 and the longest 0; equal
  queues are 1;
- kv-cache-utilization: share of the KV cache that is free;
- prefix-cache: cached share of the prompt's blocks.
max-score-picker: ties at random there, least recently chosen here. llm-d reads queue and KV use from each engine's
/metrics and is that much behind; here both are what the core has booked, always fresh.
"""

from collections.abc import Set

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request

QUEUE_WEIGHT = 2.0
KV_CACHE_UTILIZATION_WEIGHT = 2.0
PREFIX_CACHE_WEIGHT = 3.0

PREFILLING = AttemptState.PREFILLING


class LlmD(TiesInTurn):
    """Weights of the three scores: another configuration than the default one."""

    def __init__(
        self,
        *,
        queue_weight: float = QUEUE_WEIGHT,
        kv_cache_utilization_weight: float = KV_CACHE_UTILIZATION_WEIGHT,
        prefix_cache_weight: float = PREFIX_CACHE_WEIGHT,
    ) -> None:
        super().__init__()
        self._queue_weight = queue_weight
        self._kv_weight = kv_cache_utilization_weight
        self._prefix_weight = prefix_cache_weight

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        views = self._usable(avoid)
        if not views:
            return None
        queues = [waiting_prompts(v) for v in views]
        longest = max(queues)
        spread = longest - min(queues)
        blocks = request.blocks
        chosen, highest = views[0], -1.0
        for view, queue in zip(views, queues, strict=True):
            score = self._queue_weight * ((longest - queue) / spread if spread else 1.0)
            score += self._kv_weight * max(0.0, 1.0 - view.booked_kv_tokens / view.capacity.kv_tokens)
            if blocks:
                score += self._prefix_weight * view.cache.held_blocks(blocks) / len(blocks)
            if score > highest:
                chosen, highest = view, score
        return self._chosen(chosen.estimate_ttft(request))


def waiting_prompts(view: InstanceView) -> int:
    """Prompts that the instance has been given and not computed: what vllm:num_requests_waiting says, and those that
    the engine has admitted and is at work on. Without these the signal says nothing until an instance is full."""
    count = 0
    for attempt in view.running.values():
        if attempt.state is PREFILLING:
            count += 1
    return count
