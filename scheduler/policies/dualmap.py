"""DualMap: the prefix names two candidates, the state of the system picks one of them. Touches two instances, never
N."""

from collections.abc import Set

from xxhash import xxh3_64_intdigest

from scheduler.config import SchedulerConfig
from scheduler.dual_ring import DualRing
from scheduler.holders import Holders
from scheduler.instance_view import InstanceView
from scheduler.pick import pick_instance
from scheduler.placement import Placement
from scheduler.prefix_key import PrefixKeys
from scheduler.request import ChoiceReason, Request


class DualMap:
    def __init__(self, config: SchedulerConfig, holders: Holders) -> None:
        self._config = config
        self._holders = holders
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
        views = self._views
        config = self._config
        depth, mask = self._holders.deepest(request.blocks)
        shown = list(candidates)
        if mask:
            n = 0
            for i in self._holders.instances(mask):
                if i in views and i not in shown and i not in avoid:
                    shown.append(i)
                    n += 1
                    if n >= config.max_holders: break
        if config.third:
            for v in sorted(views.values(), key=lambda v: v.backlog_s)[:config.third]:
                if v.instance_id not in shown and v.instance_id not in avoid:
                    shown.append(v.instance_id)
        mean_s = sum(v.backlog_s for v in views.values()) / len(views)
        price = min(config.price_busy, config.price_idle + (config.price_busy-config.price_idle) * mean_s)
        estimates = [views[i].estimate_ttft(request) for i in shown]
        most = max(e.cached_tokens for e in estimates)
        best = None
        if config.keep_fraction:
            warm = [e for e in estimates if e.cached_tokens == most and most]
            if warm:
                w = min(warm, key=lambda e: e.total_s)
                if w.total_s <= config.keep_fraction * slo_s:
                    return Placement(w, candidates, ChoiceReason.WARM)
        for e in estimates:
            v = views[e.instance_id]
            score = e.total_s + price * (most - e.cached_tokens) * v.speed.seconds_per_token
            if e.total_s > slo_s: score += config.miss_penalty
            if best is None or (score, e.running) < best[0]:
                best = ((score, e.running), e)
        e = best[1]
        return Placement(e, candidates, ChoiceReason.WARM if e.cached_tokens == most and most else ChoiceReason.SWITCHED)
