"""Mooncake's format (`loadtest.trace`) as a workload.

The trace has arrivals and no sessions, so by default every request arrives by its own clock, as in the experiments of
arXiv 2602.06502. With `turns` a request waits for the turn that it continues (`loadtest.sessions`); the trace does not
say how long an answer took, so the whole gap between the two arrivals counts as thinking: served faster or slower, the
conversation moves with it.

All ids are kept, that of the partial last block too: requests that share it have the same prompt up to its end.
"""

from pathlib import Path

from loadtest.sessions import predecessors
from loadtest.trace import TraceRequest, read_trace
from loadtest.workload import WorkRequest, Workload
from scheduler.blocks import hash_trace_ids


def read_mooncake(path: str | Path, *, turns: bool = False) -> Workload:
    """turns: let follow-ups wait for the turn before. Raises TraceError."""
    return from_trace(read_trace(path), name=Path(path).stem, turns=turns)


def from_trace(requests: list[TraceRequest], *, name: str = "trace", turns: bool = False) -> Workload:
    """The workload of requests in order of arrival; time starts with the first."""
    origin_ms = requests[0].timestamp_ms if requests else 0
    found: list[WorkRequest] = []
    sessions = 0
    for request, before in zip(requests, predecessors(requests), strict=True):
        work = WorkRequest(
            arrival_s=(request.timestamp_ms - origin_ms) / 1000,
            prompt_tokens=request.input_length,
            output_tokens=request.output_length,
            blocks=hash_trace_ids(request.hash_ids),
        )
        if before is None:
            work.session = sessions
            sessions += 1
        else:
            work.session = found[before].session
            if turns:
                work.after = before
                work.think_s = (request.timestamp_ms - requests[before].timestamp_ms) / 1000
        found.append(work)
    return Workload(name, found)
