"""When each request of a trace is due, and which wait for the turn before them. Time is passed in."""

import heapq
from collections import defaultdict
from collections.abc import Sequence

from dualmap.loadtest.traces.trace import TraceRequest


def speed_for_qps(requests: Sequence[TraceRequest], qps: float) -> float:
    """Seconds of the trace a second, so that the mean arrival rate is qps. A trace without duration has speed 1."""
    duration_s = (requests[-1].timestamp_ms - requests[0].timestamp_ms) / 1000
    return qps * duration_s / len(requests) if duration_s else 1.0


def due_times(requests: Sequence[TraceRequest], speed: float) -> list[float]:
    """Seconds from the start of the run at which each request is due; the first one is due at 0."""
    origin_ms = requests[0].timestamp_ms
    return [(r.timestamp_ms - origin_ms) / 1000 / speed for r in requests]


class Pace:
    """Says which requests to release: those that are due and whose turn before has ended, however it ended.

    Answers never hold back requests of other sessions: the load is open-loop.
    """

    def __init__(self, due_s: Sequence[float], after: Sequence[int | None]) -> None:
        self._due_s = due_s
        self._after = after
        self._coming = [(due, index) for index, due in enumerate(due_s)]
        heapq.heapify(self._coming)
        self._ended: set[int] = set()
        self._held: dict[int, list[int]] = defaultdict(list)  # turn that is still running -> turns due after it
        self.released = 0

    def next_due_s(self) -> float | None:
        """When to ask again; None if only held turns are left, or nothing."""
        return self._coming[0][0] if self._coming else None

    def release(self, now_s: float) -> list[int]:
        """Requests to send now."""
        ready: list[int] = []
        while self._coming and self._coming[0][0] <= now_s:
            _, index = heapq.heappop(self._coming)
            before = self._after[index]
            if before is None or before in self._ended:
                ready.append(index)
            else:
                self._held[before].append(index)
        self.released += len(ready)
        return ready

    def end(self, index: int) -> list[int]:
        """A request has ended: the turns it held back, to be sent now."""
        self._ended.add(index)
        ready = self._held.pop(index, [])
        self.released += len(ready)
        return ready

    def never_released(self) -> list[int]:
        """What is left when a run is stopped, in order of the trace."""
        held = (index for indices in self._held.values() for index in indices)
        return sorted([*(index for _, index in self._coming), *held])
