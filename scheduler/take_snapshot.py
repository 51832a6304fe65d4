"""What background planning is shown: the hot instances with what waits for them, and where that could go."""

from collections.abc import Mapping

from scheduler.config import SchedulerConfig
from scheduler.instance_view import InstanceView
from scheduler.snapshot import InstanceSnapshot, Snapshot, WaitingSnapshot

MAX_WAITING_SHOWN = 256  # per hot instance, the first to be released: what bounds a snapshot and the planning time
THIRD_INSTANCES = 2  # the least loaded instances, offered where both candidates are hot


def take_snapshot(instances: Mapping[str, InstanceView], version: int, config: SchedulerConfig) -> Snapshot | None:
    """None while nothing that waits could gain by a move."""
    ready = {i: view for i, view in instances.items() if not view.draining}
    hot_s = config.hot_slo_fraction * config.ttft_slo_s
    hot = [view for view in instances.values() if view.waiting_count and view.backlog_s > hot_s]
    if not hot or len(ready) < 2:
        return None
    coolest = sorted(ready.values(), key=lambda v: (v.backlog_s, v.instance_id))[:THIRD_INSTANCES]
    waiting: list[WaitingSnapshot] = []
    shown = {view.instance_id: view for view in (*hot, *coolest)}
    for view in hot:
        ahead = view.booked_prefill_tokens
        for attempt in list(view.waiting)[:MAX_WAITING_SHOWN]:
            request = attempt.request
            if attempt.moves < config.max_moves_per_request:
                own = {i: ready[i] for i in attempt.candidates if i in ready}
                shown |= own
                others = {v.instance_id: v for v in (*own.values(), *coolest) if v is not view}
                uncached = {i: v.uncached_tokens(request) for i, v in others.items() if i not in attempt.tried}
                uncached[view.instance_id] = attempt.uncached_tokens
                slo_s = request.ttft_slo_s or config.ttft_slo_s
                waiting.append(
                    WaitingSnapshot(request.id, view.instance_id, slo_s, ahead, uncached, attempt.candidates)
                )
            ahead += attempt.uncached_tokens
    if not waiting:
        return None
    loads = (InstanceSnapshot(i, v.backlog_tokens, v.seconds_per_token) for i, v in sorted(shown.items()))
    return Snapshot(version, tuple(loads), tuple(waiting))
