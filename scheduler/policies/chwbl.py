"""Consistent hashing with bounded loads: the owner of the prefix, or the next on the ring that is not overloaded.

Source: substratusai/kubeai internal/loadbalancer/balance_chwbl.go (arXiv 1608.01350). An instance may take the request
while its requests in flight, this one included, are at most LOAD_FACTOR times the mean over all instances, this one
included. Where none may, the owner takes it.
"""

from collections.abc import Set

from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.cache_affinity import KEY_BLOCKS, prefix_key
from dualmap.scheduler.request import ChoiceReason, Request
from dualmap.scheduler.ring import HashRing

SEED = 0x63687762  # "chwb"
LOAD_FACTOR = 1.25  # kubeai api/k8s/v1 model_types.go: prefixHash.meanLoadPercentage = 125
REPLICATION = 256  # points of an instance on the ring; the same file: prefixHash.replication


class Chwbl:
    """kubeai's key is the first 100 characters of the prompt; ours is that of cache_affinity, to compare the rule."""

    holds_requests = False

    def __init__(self) -> None:
        self._ring = HashRing(SEED, REPLICATION)
        self._views: dict[str, InstanceView] = {}

    def add(self, view: InstanceView) -> None:
        self._views[view.instance_id] = view
        self._ring.add(view.instance_id)

    def remove(self, view: InstanceView) -> None:
        del self._views[view.instance_id]
        self._ring.remove(view.instance_id)

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        views = self._views
        key = prefix_key(request, KEY_BLOCKS)
        owner = instance_id = self._ring.lookup(key, avoid)
        if owner is None:
            return None
        in_flight = 0
        for view in views.values():
            in_flight += len(view.running)
        limit = LOAD_FACTOR * (in_flight + 1) / len(views)
        if in_flight and len(views[owner].running) + 1 > limit:
            passed = set(avoid)
            while instance_id is not None and len(views[instance_id].running) + 1 > limit:
                passed.add(instance_id)
                instance_id = self._ring.lookup(key, passed)
        chosen = owner if instance_id is None else instance_id
        return Placement(views[chosen].estimate_ttft(request), (chosen,), ChoiceReason.POLICY)
