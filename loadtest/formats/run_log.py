"""The run file of `dualmap replay` (replay/run_file.py) as a workload: the same load, served by something else.

Requests come when the trace wanted them; a follow-up's think time is what passed in the run between the end of the
turn before and its own release. Requests that failed are part of the load too. Answers have the length that the server
gave them, or else what the trace asked for.
"""

from pathlib import Path

from dualmap.loadtest.replay.run_file import RequestRow, RunFileError, read_run
from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceError
from dualmap.loadtest.traces.workload import Workload, WorkRequest, fill_answer_blocks, in_order
from dualmap.scheduler.blocks import hash_trace_ids


def read_run_log(path: str | Path) -> Workload:
    """Raises TraceError, also for rows without hash_ids, without which nobody knows what the prompts shared."""
    try:
        header, rows = read_run(path)
    except RunFileError as error:
        raise TraceError(str(error)) from error
    if not rows:
        raise TraceError(f"{path}: no request in it")
    rows.sort(key=lambda row: row.index)
    origin_s = min(row.scheduled_s for row in rows)
    places = {row.index: place for place, row in enumerate(rows)}
    requests: list[WorkRequest] = []
    for row in rows:
        needed = -(-row.trace_input_tokens // BLOCK_TOKENS)
        if not needed or len(row.hash_ids) != needed:
            raise TraceError(
                f"{path}: request {row.index} has {len(row.hash_ids)} hash_ids for {row.trace_input_tokens} tokens;"
                " a file written before rows had them cannot be read as a workload"
            )
        request = WorkRequest(
            arrival_s=row.scheduled_s - origin_s,
            prompt_tokens=row.trace_input_tokens,
            output_tokens=max(row.completion_tokens or row.trace_output_tokens, 1),
            blocks=hash_trace_ids(row.hash_ids),
            session=len(requests),
        )
        before = places.get(row.after) if row.after is not None else None
        if before is not None and before < len(requests):
            request.after = before
            request.session = requests[before].session
            request.think_s = _think_s(row, rows[before])
        requests.append(request)
    fill_answer_blocks(requests, [request.after for request in requests])
    return in_order(header.label, requests)


def _think_s(row: RequestRow, before: RequestRow) -> float:
    if row.released_s is None or before.released_s is None:
        return max(row.scheduled_s - before.scheduled_s, 0.0)
    return max(row.released_s - before.released_s - (before.e2e_s or 0.0), 0.0)
