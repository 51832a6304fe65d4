"""SMetric: a conversation stays where most of it is cached while that meets the TTFT objective; else the least work.

Source: vllm-project/router src/policies/smetric.rs (arXiv 2607.08565). Of each instance: hit, what is cached of a
prompt of L tokens; its work there, n + n (L - n / 2) c_att with n = L - hit; q, that and the work of prompts dispatched
there without a token yet. An instance meets the objective if q / rate is at most the objective. The instance with the
largest hit takes a later turn if its hit is more than HIT_RATIO of what could be reused and it meets the objective, or
none does. Else, and for a first turn, the smallest q x requests in flight. Ties rotate there, least recently chosen
here.

c_att is the model's, `InstanceCapacity.attention_tokens` here, so that the work is Service.work_tokens; the rate
is what an operator measured, or the 90th percentile of what was seen: here the pace that was learned. The objective is
the request's, in place of slack x (base + so much a character), for which the paper has 1 s + 62.5 ms per 1,000 tokens.
Its history of placed text is the core's cache view. A later turn, and what it could reuse, are told by the messages of
a chat there, by the blocks of the turn before here (see conversations).
"""

from collections.abc import Set

from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.conversations import Conversations
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request

HIT_RATIO = 0.1


class SMetric(TiesInTurn):
    def __init__(self) -> None:
        super().__init__()
        self._conversations = Conversations()

    def remove(self, view: InstanceView) -> None:
        super().remove(view)
        self._conversations.forget(view.instance_id)

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        chosen: InstanceView | None = None
        warmest: InstanceView | None = None
        lowest = most = 0
        warmest_meets = any_meets = False
        blocks = request.blocks
        for instance_id, view in self._views.items():
            if instance_id in avoid:
                continue
            hit = view.cache.held_blocks(blocks)
            queued = view.booked_prefill_tokens + view.work_there(request)
            meets = queued * view.seconds_per_token <= slo_s
            any_meets |= meets
            score = queued * len(view.running)
            if chosen is None or score < lowest:
                chosen, lowest = view, score
            if warmest is None or hit > most:
                warmest, most, warmest_meets = view, hit, meets
        if chosen is None or warmest is None:
            return None
        reusable, _ = self._conversations.earlier_turn(request)
        if reusable and most > HIT_RATIO * reusable and (warmest_meets or not any_meets):
            chosen = warmest
        self._conversations.note(request, chosen.instance_id)
        return self._chosen(chosen.estimate_ttft(request))
