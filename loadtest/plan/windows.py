"""Parts of a trace's time, and the rate of each."""

from collections.abc import Sequence
from dataclasses import replace

from dualmap.loadtest.traces.hot_prefix import is_synthetic
from dualmap.loadtest.virtual.simulated_workload import Setup, has_sessions, recorded_qps, trace_span_s, workload_of


def in_windows(setup: Setup, count: int) -> list[Setup]:
    """Raises ValueError where the trace has no clock of its own, and for a window with nothing but warm-up."""
    if count == 1:
        windows = [setup]
    elif is_synthetic(setup.trace) or has_sessions(setup):
        raise ValueError(f"--windows is for traces of arrivals: {setup.title} is drawn afresh, and has no time of day")
    else:
        first_s, last_s = trace_span_s(setup)
        edges = [first_s + (last_s - first_s) * number / count for number in range(count)] + [last_s + 1]
        windows = [replace(setup, window=(edges[n], edges[n + 1])) for n in range(count)]
    for window in windows:
        found = len(workload_of(window, 1.0, 0).requests)
        if found <= window.warmup_requests:
            where = "" if window.window is None else " from {:.0f} s to {:.0f} s".format(*window.window)
            raise ValueError(f"--warmup must be below the number of requests{where}, {found}, not {setup.warmup}")
    return windows


def rates_of(windows: Sequence[Setup], qps: float | None) -> list[float]:
    """Of each window; None: as recorded. Raises ValueError."""
    return [recorded_qps(window) if qps is None else qps for window in windows]
