"""Who waited past three objectives in a run while others of the same size that came later began. Pure.

Tenants and priorities have an order of their own: only equals are compared. So are requests at different instances only
where the one that waits had next to nothing cached: elsewhere it would have been no more work.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.loadtest.traces.workload import WorkRequest
from dualmap.loadtest.virtual.cluster_run import RequestOutcome

OVERDUE_SLOS = 3.0
SAME_SIZE = 0.2  # work that differs by less is the same


@dataclass(frozen=True, slots=True)
class Overtaken:
    """index: of the one that waited for `waited_s`; by: of the first that began instead. at_same_instance: both."""

    index: int
    by: int
    waited_s: float
    at_same_instance: bool


@dataclass(frozen=True, slots=True)
class _Start:
    """work_s: of its prompt, as far as not cached. cold_s: of all of it."""

    began_s: float
    index: int
    arrived_s: float
    rank: tuple[str, int]
    instance_id: str
    work_s: float
    cold_s: float


def overtaken(
    requests: Sequence[WorkRequest], outcomes: Sequence[RequestOutcome], slo_s: float, profile: EngineProfile
) -> list[Overtaken]:
    """By index. Requests that never began are compared as if they began after all others, with nothing cached."""
    starts = sorted(
        (_start(index, *pair, profile) for index, pair in enumerate(zip(requests, outcomes, strict=True))),
        key=lambda start: (start.began_s, start.index),
    )
    times_s = [start.began_s for start in starts]
    found = []
    for place, late in enumerate(starts):
        overdue_s = late.arrived_s + OVERDUE_SLOS * slo_s
        for other in starts[bisect_left(times_s, overdue_s) : place]:
            same = other.instance_id == late.instance_id
            no_more_work = same or late.cold_s <= late.work_s / (1 - SAME_SIZE)
            if (
                other.arrived_s > late.arrived_s
                and other.began_s < late.began_s
                and other.rank == late.rank
                and other.work_s >= (1 - SAME_SIZE) * late.work_s
                and no_more_work
            ):
                found.append(Overtaken(late.index, other.index, late.began_s - late.arrived_s, same))
                break
    return sorted(found, key=lambda one: one.index)


def _start(index: int, request: WorkRequest, outcome: RequestOutcome, profile: EngineProfile) -> _Start:
    told = request.told
    return _Start(
        began_s=inf if isnan(outcome.sent_s) else outcome.sent_s,
        index=index,
        arrived_s=outcome.arrived_s,
        rank=(told.tenant, told.priority) if told else ("", 0),
        instance_id=outcome.instance_id,
        work_s=_work_s(request.prompt_tokens, outcome.cached_tokens, profile),
        cold_s=_work_s(request.prompt_tokens, 0, profile),
    )


def _work_s(prompt_tokens: int, cached_tokens: int, profile: EngineProfile) -> float:
    tokens = prompt_tokens - cached_tokens
    pairs = tokens * (cached_tokens + tokens / 2)
    return tokens * profile.prefill_s_per_token + pairs * profile.attention_s_per_token_pair
