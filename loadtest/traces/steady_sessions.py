"""A stretch of steady traffic from a trace of sessions that wait for their turns.

If all sessions started within the stretch, the load would grow until the first ones end. Here they start before it,
too: of those, the turns from within it are taken.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import count

from dualmap.loadtest.traces.workload import Workload, WorkRequest, in_order
from dualmap.loadtest.traces.workload_scale import renumbered, shared_lengths

MAX_PAUSE_S = 300.0  # longer ones, as over night, would make a stretch of days


def steady_sessions(workload: Workload, requests: int, qps: float, seed: int = 0) -> Workload:
    """So many requests at qps requests a second on average, if they are served at the pace of the trace.

    Sessions are drawn with replacement, start as a Poisson process and share what strangers share. A seed draws
    much the same sessions at any rate. Raises ValueError where there is nothing to draw from.
    """
    if not workload.requests or not qps > 0:
        raise ValueError(f"{workload.name}: needs requests and a rate above 0, found {qps} requests/s")
    shared = shared_lengths(workload.requests)
    times_s = _times_s(workload.requests)
    members: dict[int, list[int]] = defaultdict(list)
    for index, request in enumerate(workload.requests):
        members[request.session].append(index)
    sessions = list(members.values())
    starts_per_s = qps * len(sessions) / len(workload.requests)
    found: list[WorkRequest] = []

    def add_session(number: int, start_s: float, rng: random.Random) -> None:
        salt = rng.getrandbits(64)
        places: dict[int, int] = {}
        for index in rng.choice(sessions):
            arrival_s = start_s + times_s[index]
            if arrival_s < 0:
                continue
            request = renumbered(workload.requests[index], shared[index], salt)
            request.arrival_s = arrival_s
            request.session = number
            request.after = places.get(-1 if request.after is None else request.after)
            request.think_s = 0.0 if request.after is None else min(request.think_s, MAX_PAUSE_S)
            places[index] = len(found)
            found.append(request)

    # Away from 0 in both directions, so that another rate moves the sessions and changes few of them.
    before, later = random.Random(f"{seed} before"), random.Random(f"{seed} later")
    numbers = count()
    start_s = 0.0
    while (start_s := start_s - before.expovariate(1.0) / starts_per_s) > -max(times_s):
        add_session(next(numbers), start_s, before)
    start_s = 0.0
    while sum(request.arrival_s <= start_s for request in found) < requests:
        add_session(next(numbers), start_s, later)
        start_s += later.expovariate(1.0) / starts_per_s
    steady = in_order(workload.name, found)
    del steady.requests[requests:]
    return steady


def _times_s(requests: Sequence[WorkRequest]) -> list[float]:
    """When each would be sent, from the start of its session, with no pause longer than MAX_PAUSE_S."""
    times_s: list[float] = []
    origins_s: dict[int, float] = {}
    for request in requests:
        if request.after is None:
            origin_s = origins_s.setdefault(request.session, request.arrival_s)
            times_s.append(request.arrival_s - origin_s)
        else:
            cut_s = max(request.think_s - MAX_PAUSE_S, 0.0)
            gap_s = request.arrival_s - requests[request.after].arrival_s
            times_s.append(times_s[request.after] + gap_s - cut_s)
    return times_s
