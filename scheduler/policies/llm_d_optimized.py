"""llm-d's optimized baseline, "sticky until saturated": the least prefill work, among the warm while they keep up.

Source: llm-d/llm-d guides/optimized-baseline; llm-d/llm-d-router prefix-cache-affinity-filter, token-load-scorer and
max-score-picker. An instance is warm if it holds AFFINITY_THRESHOLD of the prompt's complete blocks. Only warm ones are
looked at, unless the best of them would have its first token more than MAX_TTFT_PENALTY_S after the best other one, by
the work in flight and the throughput of prefill. Then the highest score,

    1 - min(1, (prefill work in flight + that of this prompt there) / QUEUE_THRESHOLD_TOKENS)

ties at random there, least recently chosen here. The throughput is a constant there, 15,928 tokens/s for Qwen3-32B on
two H100, to be measured again on other hardware with the guide's script (one prompt on an idle engine): here it is what
was measured of each instance. Work counts attention, tokens there. Its default prefix index remembers what was placed;
the core's cache view is exact, as with llm-d's precise-prefix-cache-producer.
"""

from collections.abc import Sequence, Set

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request

AFFINITY_THRESHOLD = 0.8  # affinityThreshold
MAX_TTFT_PENALTY_S = 18.0  # maxTTFTPenaltyMs; 0: warm ones always
QUEUE_THRESHOLD_TOKENS = 4_194_304  # of token-load-scorer


class LlmDOptimized(TiesInTurn):
    """max_ttft_penalty_s: another than the guide's."""

    def __init__(self, config: SchedulerConfig, *, max_ttft_penalty_s: float = MAX_TTFT_PENALTY_S) -> None:
        super().__init__()
        self._block_tokens = config.block_tokens
        self._max_ttft_penalty_s = max_ttft_penalty_s

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        views = self._usable(avoid)
        if not views:
            return None
        chosen, lowest = views[0], QUEUE_THRESHOLD_TOKENS + 1
        for view in self._sticky(request, views):
            load = min(QUEUE_THRESHOLD_TOKENS, view.booked_prefill_tokens + view.work_there(request))
            if load < lowest:
                chosen, lowest = view, load
        return self._chosen(chosen.estimate_ttft(request))

    def _sticky(self, request: Request, views: list[InstanceView]) -> Sequence[InstanceView]:
        """The warm ones, or all where there are none or they are saturated."""
        complete = min(len(request.blocks), request.prompt_tokens // (request.block_tokens or self._block_tokens))
        if not complete:
            return views
        warm: list[InstanceView] = []
        others: list[InstanceView] = []
        for view in views:
            held = min(complete, view.cache.held_blocks(request.blocks))
            (warm if held >= AFFINITY_THRESHOLD * complete else others).append(view)
        if not warm:
            return views
        if others and self._max_ttft_penalty_s:
            penalty_s = min(map(_ttft_s, warm)) - min(map(_ttft_s, others))
            if penalty_s > self._max_ttft_penalty_s:
                return views
        return warm


def _ttft_s(view: InstanceView) -> float:
    return view.booked_prefill_tokens / view.capacity.prefill_tokens_per_s
