"""LMetric: tokens to prefill times batch size; the smallest product wins, and there is nothing to tune.

Source: arXiv 2603.15202: P-token x BS. P-token: tokens to prefill at the instance if the request were routed there,
those not cached of its own and those of what is dispatched there and not prefilled. BS: requests in flight there, this
one included, as the ports in llm-d/llm-d-router (scorer/lmetric/lmetric.go) and sgl-project/sglang
(sgl-model-gateway/src/policies/lmetric.rs) count it, so that an idle instance does not make the product 0. Those ports
leave the queued tokens out of P-token.
"""

from collections.abc import Set

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request
from dualmap.scheduler.ttft_estimate import cached_tokens


class LMetric(TiesInTurn):
    """Ties go to fewer requests, then to the instance least recently chosen.

    own_tokens_only: P-token is of this request alone, as in the ports.
    """

    def __init__(self, config: SchedulerConfig, *, own_tokens_only: bool = False) -> None:
        super().__init__()
        self._block_tokens = config.block_tokens
        self._own_tokens_only = own_tokens_only

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        chosen: InstanceView | None = None
        lowest = batch_of_lowest = 0
        blocks = request.blocks
        for instance_id, view in self._views.items():
            if instance_id in avoid:
                continue
            held = cached_tokens(request, view.cache.held_blocks(blocks), self._block_tokens)
            tokens = request.prompt_tokens - held
            if not self._own_tokens_only:
                tokens += view.booked_prefill_tokens
            batch = len(view.running) + 1
            score = tokens * batch
            if chosen is None or score < lowest or (score == lowest and batch < batch_of_lowest):
                chosen, lowest, batch_of_lowest = view, score, batch
        return None if chosen is None else self._chosen(chosen.estimate_ttft(request))
