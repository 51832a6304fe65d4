"""The prefix alone decides: one consistent hash ring, whatever the load.

The cache-affinity baseline of arXiv 2602.06502 (section 4.1): a request goes to the owner of its prefix key.
"""

from collections.abc import Set

from xxhash import xxh3_64_intdigest

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.request import ChoiceReason, Request
from dualmap.scheduler.ring import HashRing

SEED = 0x61666669  # "affi"
KEY_BLOCKS = 2  # with 1, all requests of the Mooncake conversation trace would share one key


class CacheAffinity:
    holds_requests = False

    def __init__(self, config: SchedulerConfig) -> None:
        self._ring = HashRing(SEED, config.virtual_nodes)
        self._views: dict[str, InstanceView] = {}

    def add(self, view: InstanceView) -> None:
        self._views[view.instance_id] = view
        self._ring.add(view.instance_id, view.capacity.ring_weight)

    def remove(self, view: InstanceView) -> None:
        del self._views[view.instance_id]
        self._ring.remove(view.instance_id)

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        instance_id = self._ring.lookup(prefix_key(request, KEY_BLOCKS), avoid)
        if instance_id is None:
            return None
        return Placement(self._views[instance_id].estimate_ttft(request), (instance_id,), ChoiceReason.POLICY)


def prefix_key(request: Request, blocks: int) -> int:
    """The first blocks of the prompt; the request itself where it has none."""
    prompt = request.chain
    if prompt:
        return prompt[blocks - 1] if len(prompt) >= blocks else prompt[-1]
    return xxh3_64_intdigest(request.id.encode())
