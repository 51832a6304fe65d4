"""Parts of a trace's time, and how much of each is simulated."""

from dataclasses import replace
from math import ceil

from dualmap.loadtest.study.simulated_capacity import guess_qps
from dualmap.loadtest.traces.hot_prefix import is_synthetic
from dualmap.loadtest.virtual.simulated_workload import Setup, has_sessions, trace_span_s, workload_of

# Shorter runs end before queues are as long as the rate makes them, so that more seems to be borne.
LEAST_S = 120.0
_LEAST_REQUESTS = 1000


def in_windows(setup: Setup, count: int) -> list[Setup]:
    """Raises ValueError where the trace has no clock of its own."""
    if count == 1:
        return [setup]
    if is_synthetic(setup.trace) or has_sessions(setup):
        raise ValueError(f"--windows is for traces of arrivals: {setup.title} is drawn afresh, and has no time of day")
    first_s, last_s = trace_span_s(setup)
    edges = [first_s + (last_s - first_s) * number / count for number in range(count)] + [last_s + 1]
    return [replace(setup, window=(edges[n], edges[n + 1])) for n in range(count)]


def of_length(setup: Setup, limit: int | None, warmup: int | None, qps: float | None) -> Setup:
    """With so many requests, and so many of them for warming up; None: as many as a run needs at the rate or, where
    that is None too, at about the highest that the instances bear. Raises ValueError where all are for warming up."""
    if limit is None:
        rate = qps or guess_qps(replace(setup, limit=_LEAST_REQUESTS))
        limit = max(ceil(rate * LEAST_S / setup.copies), _LEAST_REQUESTS)
    found = replace(setup, limit=limit, warmup=limit // 10 if warmup is None else warmup)
    requests = len(workload_of(found, 1.0, 0).requests)
    if requests <= found.warmup_requests:
        where = "" if setup.window is None else " from {:.0f} s to {:.0f} s".format(*setup.window)
        raise ValueError(f"--warmup must be below the number of requests{where}, {requests}, not {found.warmup}")
    return found
