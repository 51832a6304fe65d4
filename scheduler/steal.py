"""An instance that would idle takes a request that waits for another, where that pays; and any instance takes who has
waited for too long elsewhere before it goes on with those that came later.

Rebalancing plans ahead and in the background; this is decided at the moment an instance runs out of work, when it is
certain that the request starts there at once.
"""

from collections.abc import Container, Iterator
from itertools import islice

from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.long_waits import LongWaits
from dualmap.scheduler.pick import leaving_gain_s

MAX_SOURCES = 4  # hottest instances that are looked at
MAX_LOOKED_AT = 32  # requests looked at in a queue
MAX_OVERDUE = 8  # of those that wait elsewhere, the longest overdue
# Who has waited for too long leaves only for an instance where it is hardly more work: under overload, each token that
# is computed again makes everybody wait longer.
HARDLY_MORE = 1.25


def request_to_take(
    view: InstanceView,
    loads: LoadOrder[InstanceView],
    peers: Container[str] | None,
    recompute_price: float,
    decode_price_s: float,
    min_gain_s: float,
) -> tuple[InstanceView, Attempt] | None:
    """Where it waits, and the request that gains most by running on `view` now; None if none gains min_gain_s.
    peers: instances that serve what `view` serves; None: all. decode_price_s: for each request that runs on `view`
    beyond those where it waits."""
    for source in islice(loads.hottest(peers), MAX_SOURCES):
        if source is not view and source.waiting_count:
            more_running = max(0, view.booked_running - source.booked_running)
            attempt = _best_of(source, view, recompute_price, min_gain_s + decode_price_s * more_running)
            if attempt is not None:
                return source, attempt
    return None


def _best_of(source: InstanceView, view: InstanceView, recompute_price: float, min_gain_s: float) -> Attempt | None:
    best: Attempt | None = None
    best_gain_s = min_gain_s
    source_spt, view_spt = source.seconds_per_token, view.seconds_per_token
    ahead = source.prefilling_tokens
    for attempt in islice(source.waiting, MAX_LOOKED_AT):
        if view.instance_id not in attempt.tried and view.can_run(attempt.request):
            work_there = view.work_there(attempt.request)
            here_s, there_s = attempt.work_tokens * source_spt, work_there * view_spt
            extra_s = view.own_s(attempt, work_there) - source.own_s(attempt, attempt.work_tokens)
            gain_s = leaving_gain_s(ahead * source_spt + here_s, view.prefilling_s + there_s, extra_s, recompute_price)
            if gain_s > best_gain_s:
                best, best_gain_s = attempt, gain_s
        ahead += attempt.work_tokens
    return best


def overdue_to_take(view: InstanceView, own: Attempt | None, waits: LongWaits, now: float) -> Iterator[Attempt]:
    """Who waits elsewhere, has waited for too long, and comes before `own`, the next of those that wait for `view`: of
    the same tenant and priority, since their order is not one of age. own: None where nobody waits."""
    for attempt in islice(_overdue_elsewhere(view, waits, now), MAX_OVERDUE):
        request = attempt.request
        if own is not None:
            if waits.overdue_s(attempt) >= waits.overdue_s(own):
                return
            if (request.tenant, request.priority) != (own.request.tenant, own.request.priority):
                continue
        tried = view.instance_id in attempt.tried
        if not tried and view.work_there(request) <= HARDLY_MORE * attempt.work_tokens:
            yield attempt


def _overdue_elsewhere(view: InstanceView, waits: LongWaits, now: float) -> Iterator[Attempt]:
    for attempt in waits.overdue(now):
        if attempt.instance_id != view.instance_id and view.can_run(attempt.request):
            yield attempt
