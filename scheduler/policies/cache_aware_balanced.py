"""SMG's cache-aware-balanced: the shortest expected wait, less the time that the cached prefix saves.

Source: the policy of that name in lightseekorg/smg, and its expected wait, with their defaults. Instances are left out
while SATURATION_WAITING_REQUESTS wait there or SATURATION_KV_USAGE of its KV cache is in use. Of the others the lowest

    cost = wait - credit / rate
    credit = min(lead, AFFINITY_CAP_TOKENS) - min(lead - held, AFFINITY_CAP_TOKENS)
    wait = work ahead / rate + KV_PRESSURE_WEIGHT_S * used / (1 - used)

held: cached tokens of the prompt; lead: the most of any that is looked at. used: share of the KV cache. Where all are
left out, the shortest wait of all. Ties at random there, least recently chosen here. Reports of the engines and what
was sent since are the core's books here: prompts without a token are waiting, and the work ahead is theirs. The rate is
that of generation there, which is said to be a guess, 2,000 tokens/s where none is reported: here that of prefill, as
seen.
"""

from collections.abc import Set
from math import inf

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.llm_d import waiting_prompts
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request
from dualmap.scheduler.ttft_estimate import cached_tokens

AFFINITY_CAP_TOKENS = 16_384
SATURATION_WAITING_REQUESTS = 8
SATURATION_KV_USAGE = 0.8
KV_PRESSURE_WEIGHT_S = 0.15
MAX_KV_USAGE = 0.999  # above, the pressure rises no more


class CacheAwareBalanced(TiesInTurn):
    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__()
        self._block_tokens = config.block_tokens

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        usable = self._usable(avoid)
        if not usable:
            return None
        views = [view for view in usable if not _saturated(view)]
        if not views:
            return self._chosen(min(usable, key=_wait_s).estimate_ttft(request))
        blocks = request.blocks
        held = [cached_tokens(request, view.cache.held_blocks(blocks), self._block_tokens) for view in views]
        lead = max(held)
        chosen, lowest = views[0], inf
        for view, tokens in zip(views, held, strict=True):
            credit = min(lead, AFFINITY_CAP_TOKENS) - min(lead - tokens, AFFINITY_CAP_TOKENS)
            cost_s = _wait_s(view) - credit * view.seconds_per_token
            if cost_s < lowest:
                chosen, lowest = view, cost_s
        return self._chosen(chosen.estimate_ttft(request))


def _kv_usage(view: InstanceView) -> float:
    return view.booked_kv_tokens / view.capacity.kv_tokens


def _saturated(view: InstanceView) -> bool:
    return waiting_prompts(view) >= SATURATION_WAITING_REQUESTS or _kv_usage(view) >= SATURATION_KV_USAGE


def _wait_s(view: InstanceView) -> float:
    used = min(_kv_usage(view), MAX_KV_USAGE)
    return view.booked_prefill_tokens * view.seconds_per_token + KV_PRESSURE_WEIGHT_S * used / (1.0 - used)
