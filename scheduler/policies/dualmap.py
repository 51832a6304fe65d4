"""DualMap: the prefix names two candidates, the state of the system picks one of them. Touches two instances, never
N."""

from collections.abc import Set

from xxhash import xxh3_64_intdigest

from scheduler.config import SchedulerConfig
from scheduler.dual_ring import DualRing
from scheduler.instance_view import InstanceView
from scheduler.pick import pick_instance
from scheduler.placement import Placement
from scheduler.prefix_key import PrefixKeys
from scheduler.request import Request


class DualMap:
    def __init__(self, config: SchedulerConfig) -> None:
        self.holds_requests = config.gateway_queue
        self._switch_fraction = config.switch_slo_fraction if config.slo_aware else None
        self._recompute_price = config.recompute_price
        self._rings = DualRing(config.virtual_nodes, dual=config.dual_mapping)
        self.keys = PrefixKeys(config.key_blocks, config.max_key_blocks, adaptive=config.adaptive_key)
        self._views: dict[str, InstanceView] = {}

    def add(self, view: InstanceView) -> None:
        self._views[view.instance_id] = view
        self._rings.add(view.instance_id, view.capacity.weight)
        self.keys.resize(len(self._rings))

    def remove(self, view: InstanceView) -> None:
        del self._views[view.instance_id]
        self._rings.remove(view.instance_id)
        self.keys.resize(len(self._rings))

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        if request.blocks:
            key = self.keys.observe(request.blocks)
        else:
            key = xxh3_64_intdigest(request.id.encode())  # no prefix to reuse: any two instances will do
        candidates = self._rings.candidates(key, avoid)
        if not candidates:
            return None
        estimates = [self._views[instance_id].estimate_ttft(request) for instance_id in candidates]
        limit_s = None if self._switch_fraction is None else self._switch_fraction * slo_s
        estimate, reason = pick_instance(estimates, limit_s, self._recompute_price)
        return Placement(estimate, candidates, reason)
