"""What background planning is shown: the hot instances with what waits for them, and where that could go."""

from collections.abc import Iterator, Mapping
from itertools import islice

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.offers import Offers
from dualmap.scheduler.pick import recompute_price
from dualmap.scheduler.snapshot import InstanceSnapshot, Snapshot, WaitingSnapshot

MAX_HOT_SHOWN = 4  # the hottest ones; a plan has few moves, and the others are shown when these have cooled
MAX_FLEETS_SHOWN = 4  # where models have instances of their own
MAX_WAITING_SHOWN = 128  # for each, the first to be released; with the line above: at most 2 ms for snapshot or plan
THIRD_INSTANCES = 2  # the least loaded instances, offered where both candidates are hot


def take_snapshot(
    instances: Mapping[str, InstanceView],
    loads: LoadOrder[InstanceView],
    offers: Offers,
    version: int,
    config: SchedulerConfig,
) -> Snapshot | None:
    """None while nothing that waits could gain by a move."""
    if len(loads) < 2:
        return None
    draining = [view for view in instances.values() if view.draining] if len(loads) < len(instances) else []
    hot = [view for view in (*draining, *_hottest(loads, offers)) if _is_hot(view, config)]
    if not hot:
        return None
    waiting: list[WaitingSnapshot] = []
    shown = {view.instance_id: view for view in hot}
    prices: dict[str, float] = {}
    for view in hot:
        peers = offers.peers(view.instance_id)
        if peers is not None:
            prices[view.instance_id] = recompute_price(loads.busy_of(peers), config)
        coolest = list(islice(loads.coolest(peers), THIRD_INSTANCES))
        shown |= {v.instance_id: v for v in coolest}
        ahead = view.prefilling_tokens
        for attempt in islice(view.waiting, MAX_WAITING_SHOWN):
            request = attempt.request
            if attempt.moves < config.max_moves_per_request:
                own = {i: instances[i] for i in attempt.candidates if i in instances and not instances[i].draining}
                shown |= own
                others = {v.instance_id: v for v in (*own.values(), *coolest) if v is not view}
                uncached = {
                    i: v.work_there(request) for i, v in others.items() if i not in attempt.tried and v.can_run(request)
                }
                uncached[view.instance_id] = attempt.work_tokens
                shared_s = {i: instances[i].shared_s(attempt, work) for i, work in uncached.items()}
                slo_s = request.ttft_slo_s or config.ttft_slo_s
                waiting.append(
                    WaitingSnapshot(
                        request.id,
                        view.instance_id,
                        slo_s,
                        ahead_tokens=ahead,
                        work_tokens=uncached,
                        candidates=attempt.candidates,
                        shared_s=shared_s,
                    )
                )
            ahead += attempt.work_tokens
    if not waiting:
        return None
    shown_loads = (InstanceSnapshot(i, v.backlog_tokens, v.seconds_per_token) for i, v in sorted(shown.items()))
    price = recompute_price(loads.busy, config)
    return Snapshot(version, tuple(shown_loads), tuple(waiting), recompute_price=price, prices=prices)


def _hottest(loads: LoadOrder[InstanceView], offers: Offers) -> Iterator[InstanceView]:
    """Where models have instances of their own, the hottest of each."""
    if offers.alike:
        yield from islice(loads.hottest(), MAX_HOT_SHOWN)
        return
    shown: list[str] = []
    for view in loads.hottest():
        peers = offers.peers(view.instance_id)
        like_it = len(shown) if peers is None else sum(instance_id in peers for instance_id in shown)
        if len(view.waiting) and like_it < MAX_HOT_SHOWN and len(shown) < MAX_HOT_SHOWN * MAX_FLEETS_SHOWN:
            shown.append(view.instance_id)
            yield view


def _is_hot(view: InstanceView, config: SchedulerConfig) -> bool:
    """Whether one of those shown could have to wait too long, by its own objective."""
    backlog_s = view.backlog_s
    return any(
        backlog_s > config.hot_slo_fraction * (attempt.request.ttft_slo_s or config.ttft_slo_s)
        for attempt in islice(view.waiting, MAX_WAITING_SHOWN)
    )
