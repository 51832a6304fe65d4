"""Mooncake's format (`dualmap.loadtest.traces.trace`) as a workload.

The trace has arrivals and no sessions, so by default every request arrives by its own clock, as in the experiments of
arXiv 2602.06502. With `turns` a request waits for the turn that it continues (traces/sessions.py); the trace does not
say how long an answer took, so the whole gap between the two arrivals counts as thinking: served faster or slower, the
conversation moves with it.

All ids are kept, that of the partial last block too: in the public trace the requests that share one have prompts of
equal length, so it stands for an identical prompt. The answer's blocks are those of the next turn, which in the public
trace is long enough to hold the answer in 92% of the cases.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from dualmap.loadtest.traces.sessions import predecessors
from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceRequest, read_trace
from dualmap.loadtest.traces.workload import Workload, WorkRequest, fill_answer_blocks
from dualmap.scheduler.blocks import hash_trace_ids


def read_mooncake(path: str | Path, *, turns: bool = False) -> Workload:
    """turns: let follow-ups wait for the turn before. Raises TraceError."""
    return from_trace(read_trace(path), name=Path(path).stem, turns=turns)


def from_trace(requests: Sequence[TraceRequest], *, name: str = "trace", turns: bool = False) -> Workload:
    """The workload of requests in order of arrival; time starts with the first."""
    origin_ms = requests[0].timestamp_ms if requests else 0
    found: list[WorkRequest] = []
    sessions = 0
    continues = predecessors(requests)
    for request, before in zip(requests, continues, strict=True):
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
    fill_answer_blocks(found, continues)
    return Workload(name, found)


def to_trace(workload: Workload) -> list[TraceRequest]:
    """The requests in Mooncake's format, ids numbered by first appearance.

    Which request waits for which is lost: follow-ups get the time at which their own trace had them. A block without a
    hash gets an id that no other has.
    """
    numbers: dict[int, int] = {}
    fresh = count(-1, -1)  # no hash is negative
    found = []
    for request in workload.requests:
        blocks = request.blocks[: -(-request.prompt_tokens // BLOCK_TOKENS)]
        missing = -(-request.prompt_tokens // BLOCK_TOKENS) - len(blocks)
        ids = tuple(
            numbers.setdefault(block, len(numbers)) for block in (*blocks, *(next(fresh) for _ in range(missing)))
        )
        found.append(TraceRequest(round(request.arrival_s * 1000), request.prompt_tokens, request.output_tokens, ids))
    return found
