"""NVIDIA Dynamo's KV router: the smallest sum of prefill blocks to compute and of blocks active while decoding.

Source: ai-dynamo/dynamo lib/kv-router/src/scheduling/: selector/default.rs (cost), config.rs (defaults), types.rs
(potential loads), v1.3. In blocks:

    cost = PREFILL_LOAD_SCALE * max(0, (prefill tokens active there + prompt) / block - OVERLAP_SCORE_CREDIT * cached)
           + distinct prompt blocks of the requests active there, this one's included

router_temperature is 0: the smallest cost wins, ties at random there, least recently chosen here. Output blocks are not
tracked (router_track_output_blocks = false). The router's own queue (router_queue_threshold = 16 x the engine's batched
tokens) is left out: it holds a request only where all instances are hopelessly behind.
"""

from collections.abc import Set

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.block_uses import add_uses, remove_uses
from dualmap.scheduler.request import ChoiceReason, Request

PREFILL_LOAD_SCALE = 1.0  # --router-prefill-load-scale; up to v1.0 overlap_score_weight, 1.0 as well
OVERLAP_SCORE_CREDIT = 1.0  # --router-kv-overlap-score-credit; no decay (overlap_score_credit_decay = 0)


class _ActiveBlocks:
    """Distinct prompt blocks of the requests active on one instance (router_track_active_blocks = true)."""

    __slots__ = ("prompts", "uses", "view")

    def __init__(self, view: InstanceView) -> None:
        self.view = view
        self.prompts: dict[str, tuple[int, ...]] = {}  # by request id
        self.uses: dict[int, int] = {}  # block -> active requests that have it

    def start(self, request: Request) -> None:
        self.prompts[request.id] = request.blocks
        add_uses(self.uses, request.blocks)

    def drop_ended(self) -> None:
        """A policy is not told when a request ends; its absence from the instance tells it."""
        for request_id in self.prompts.keys() - self.view.running.keys():
            remove_uses(self.uses, self.prompts.pop(request_id))


class DynamoKv:
    holds_requests = False

    def __init__(self, config: SchedulerConfig) -> None:
        self._block_tokens = config.block_tokens
        self._active: dict[str, _ActiveBlocks] = {}  # least recently chosen first

    def add(self, view: InstanceView) -> None:
        self._active[view.instance_id] = _ActiveBlocks(view)

    def remove(self, view: InstanceView) -> None:
        del self._active[view.instance_id]

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        chosen = self._cheapest(request, avoid)
        return None if chosen is None else self._chosen(request, chosen)

    def _cheapest(self, request: Request, avoid: Set[str]) -> _ActiveBlocks | None:
        blocks = request.blocks
        block_tokens = request.block_tokens or self._block_tokens
        chosen: _ActiveBlocks | None = None
        lowest = 0.0
        for instance_id, active in self._active.items():
            if instance_id in avoid:
                continue
            view = active.view
            if len(active.prompts) != len(view.running):
                active.drop_ended()
            uses = active.uses
            cached = min(view.cache.held_blocks(blocks), request.prompt_tokens / block_tokens)
            prefill = (view.booked_prefill_tokens + request.prompt_tokens) / block_tokens
            decode = len(uses)
            for depth, block in enumerate(blocks):
                if block not in uses:
                    decode += len(blocks) - depth  # hashes are chained: nothing behind it is shared either
                    break
            cost = PREFILL_LOAD_SCALE * max(0.0, prefill - OVERLAP_SCORE_CREDIT * cached) + decode
            if chosen is None or cost < lowest:
                chosen, lowest = active, cost
        return chosen

    def _chosen(self, request: Request, chosen: _ActiveBlocks) -> Placement:
        # A request that is known there already is one whose attempt there has failed, and that is tried there again.
        if request.id in chosen.prompts or len(chosen.prompts) != len(chosen.view.running):
            chosen.drop_ended()
        chosen.start(request)
        chosen_id = chosen.view.instance_id
        self._active[chosen_id] = self._active.pop(chosen_id)
        return Placement(chosen.view.estimate_ttft(request), (chosen_id,), ChoiceReason.POLICY)
