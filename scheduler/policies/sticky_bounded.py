"""Dynamo's sticky sessions, bounded: a conversation stays at its instance while that is not much busier than others.

Source: ai-dynamo/dynamo sticky_session.rs, mode "bounded". The instance that ran the last turn is kept while the
requests active there are at most LOAD_FACTOR times their mean over the instances; else, and for a first turn, Dynamo's
default cost (see dynamo_kv) names one, which the conversation then stays with. Its sessions have ids, in a bounded LRU
map; here a turn is known by the blocks of the one before (see conversations).
"""

from collections.abc import Set

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.conversations import Conversations
from dualmap.scheduler.policies.dynamo_kv import DynamoKv
from dualmap.scheduler.request import Request

LOAD_FACTOR = 1.25


class StickyBounded(DynamoKv):
    """Ties of the default cost go to the instance least recently chosen."""

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__(config)
        self._conversations = Conversations()

    def remove(self, view: InstanceView) -> None:
        super().remove(view)
        self._conversations.forget(view.instance_id)

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        _, bound_to = self._conversations.earlier_turn(request)
        chosen = self._active.get(bound_to) if bound_to not in avoid else None
        if chosen is None or len(chosen.view.running) > LOAD_FACTOR * self._mean_active(avoid):
            chosen = self._cheapest(request, avoid)
        if chosen is None:
            return None
        self._conversations.note(request, chosen.view.instance_id)
        return self._chosen(request, chosen)

    def _mean_active(self, avoid: Set[str]) -> float:
        counts = [len(active.view.running) for instance_id, active in self._active.items() if instance_id not in avoid]
        return sum(counts) / len(counts)
