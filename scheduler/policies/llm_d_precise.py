"""llm-d's precise prefix cache configuration: the scores of llm_d, with other weights, over exact KV events.

Source: llm-d/llm-d-router deploy/config/epp-precise-prefix-cache-config.yaml: prefix-cache-scorer 2, queue-scorer 1,
kv-cache-utilization-scorer 1, max-score-picker. KV events tell it which blocks of the prompt an engine holds; here the
core's cache view does. The scorer's weight for absolute lengths, min(1, tokens / 8192) squared, is 0 as there.
"""

from dualmap.scheduler.policies.llm_d import LlmD

QUEUE_WEIGHT = 1.0
KV_CACHE_UTILIZATION_WEIGHT = 1.0
PREFIX_CACHE_WEIGHT = 2.0


class LlmDPrecise(LlmD):
    def __init__(self) -> None:
        super().__init__(
            queue_weight=QUEUE_WEIGHT,
            kv_cache_utilization_weight=KV_CACHE_UTILIZATION_WEIGHT,
            prefix_cache_weight=PREFIX_CACHE_WEIGHT,
        )
