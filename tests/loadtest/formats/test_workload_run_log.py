"""The file of a replay as a workload."""

from pathlib import Path

import pytest

from dualmap.loadtest.formats import detect, read_workload
from dualmap.loadtest.formats.mooncake import to_trace
from dualmap.loadtest.replay.run_file import Outcome, RequestRow, write_row
from dualmap.loadtest.traces.trace import TraceError, TraceRequest
from tests.loadtest.made import run_header


def run_file(path: Path, *rows: RequestRow) -> Path:
    with open(path, "wb") as file:
        write_row(file, run_header(label="night", requests=2))
        for row in rows:
            write_row(file, row)
    return path


def test_a_run_file_gives_its_own_load_again(tmp_path):
    common = {"trace_input_tokens": 1600, "trace_output_tokens": 400, "hash_ids": (0, 1, 2, 3)}
    path = run_file(
        tmp_path / "run.jsonl",
        RequestRow(index=1, outcome=Outcome.SHED, scheduled_s=9.0, released_s=10.0, after=0, **common),
        RequestRow(index=0, outcome=Outcome.OK, scheduled_s=2.0, released_s=2.0, e2e_s=5.0, **common),
    )
    assert detect(path) == "run"
    workload = read_workload(path)
    assert workload.name == "night"
    assert [(r.arrival_s, r.after, r.think_s) for r in workload.requests] == [(0.0, None, 0.0), (7.0, 0, 3.0)]


def test_a_run_file_without_block_ids_says_so(tmp_path):
    path = run_file(
        tmp_path / "run.jsonl", RequestRow(index=0, outcome=Outcome.OK, scheduled_s=0.0, trace_input_tokens=600)
    )
    with pytest.raises(TraceError, match="request 0 has 0 hash_ids for 600 tokens"):
        read_workload(path)


def test_what_a_replay_sent_can_be_read_from_its_file(model_server, start_replay):
    async def answer(call):
        call.answer()

    model_server.behave = answer
    trace = [TraceRequest(0, 700, 3, (0, 1)), TraceRequest(10, 600, 4, (0, 2))]
    replay = start_replay(trace, model_server.port)
    replay.rows()
    assert to_trace(read_workload(replay.out)) == trace
