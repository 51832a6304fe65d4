"""llm-d's router: a weighted sum of three scores, each from 0 to 1; the highest sum wins.

Source: llm-d/llm-d-router (once llm-d-inference-scheduler and the endpoint picker of gateway-api-inference-extension):
config/charts/routerlib/templates/_config.yaml (default-plugins.yaml: which scorers, and their weights) and
pkg/epp/framework/plugins/scheduling/scorer/{queuedepth,kvcacheutilization,prefix}.
- queue: requests waiting in the engine, scaled so that the shortest queue is 1 and the longest 0; equal queues are 1;
- kv-cache-utilization: share of the KV cache that is free;
- prefix-cache: cached share of the prompt's blocks.
max-score-picker: ties at random there, least recently chosen here. llm-d reads queue and KV use from each engine's
/metrics and is that much behind; here both are what the core has booked, always fresh.
"""

from collections.abc import Set

from scheduler.instance_view import InstanceView
from scheduler.placement import Placement
from scheduler.request import AttemptState, ChoiceReason, Request

QUEUE_WEIGHT = 2.0
KV_CACHE_UTILIZATION_WEIGHT = 2.0
PREFIX_CACHE_WEIGHT = 3.0

PREFILLING = AttemptState.PREFILLING


class LlmD:
    holds_requests = False

    def __init__(self) -> None:
        self._views: dict[str, InstanceView] = {}  # least recently chosen first

    def add(self, view: InstanceView) -> None:
        self._views[view.instance_id] = view

    def remove(self, view: InstanceView) -> None:
        del self._views[view.instance_id]

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        views = [v for i, v in self._views.items() if i not in avoid]
        if not views:
            return None
        queues = [_waiting(v) for v in views]
        longest = max(queues)
        spread = longest - min(queues)
        blocks = request.blocks
        chosen, highest = views[0], -1.0
        for view, queue in zip(views, queues, strict=True):
            score = QUEUE_WEIGHT * ((longest - queue) / spread if spread else 1.0)
            score += KV_CACHE_UTILIZATION_WEIGHT * max(0.0, 1.0 - view.booked_kv_tokens / view.capacity.kv_tokens)
            if blocks:
                score += PREFIX_CACHE_WEIGHT * view.cache.held_blocks(blocks) / len(blocks)
            if score > highest:
                chosen, highest = view, score
        self._views[chosen.instance_id] = self._views.pop(chosen.instance_id)
        return Placement(chosen.estimate_ttft(request), (chosen.instance_id,), ChoiceReason.POLICY)


def _waiting(view: InstanceView) -> int:
    """What the engine would report as vllm:num_requests_waiting: no token yet."""
    count = 0
    for attempt in view.running.values():
        if attempt.state is PREFILLING:
            count += 1
    return count
