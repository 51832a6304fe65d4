"""Live replays against virtual time: what counts as agreement, and files that cannot be compared. The comparison itself
is in test_demo.py, where there is a live run."""

import json
from dataclasses import replace

import pytest

from loadtest.agreement import Seen, agree, main

LIVE = Seen(ttft_p50_s=1.0, ttft_p90_s=3.0, hit_rate=0.30, busiest=0.2)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (LIVE, True),
        (replace(LIVE, ttft_p50_s=1.09, ttft_p90_s=2.75, hit_rate=0.309, busiest=0.9), True),
        (replace(LIVE, ttft_p50_s=1.11), False),
        (replace(LIVE, ttft_p90_s=2.69), False),
        (replace(LIVE, hit_rate=0.311), False),
        (replace(LIVE, hit_rate=0.289), False),
    ],
)
def test_agreement_is_ten_per_cent_of_the_times_and_a_point_of_hits(other: Seen, expected: bool):
    assert agree(LIVE, other) is expected


def run_file(tmp_path, label: str, outcome: str = "ok"):
    header = {
        "row": "run", "label": label, "note": "", "started_at": "2026-11-23T00:00:00+00:00", "target": "t", "path": "p",
        "model": "sim", "trace": "t", "requests": 1, "qps": 1.0, "speed": 1.0, "slo_s": 5.0, "request_timeout_s": 300.0,
        "time_limit_s": 300.0, "max_input_tokens": None,
    }  # fmt: skip
    row = {
        "row": "request", "index": 0, "outcome": outcome, "scheduled_s": 0.0, "released_s": 0.0, "sent_s": 0.0,
        "held_back_s": 0.0, "ttft_s": 0.17, "e2e_s": 0.5, "status": 200, "trace_input_tokens": 1024,
        "trace_output_tokens": 20, "prompt_tokens": 1024, "cached_tokens": 0, "completion_tokens": 20,
        "instance": "sim-0", "hash_ids": [1, 2],
    }  # fmt: skip
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(header) + "\n" + json.dumps(row) + "\n")
    return path


def test_one_request_takes_its_prefill_time_on_both_sides(tmp_path, capsys):
    """1,024 tokens at 0.00016 s are 0.164 s."""
    assert main([str(run_file(tmp_path, "round_robin"))]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| round_robin")]
    assert rows == [
        "| round_robin | live | 0.17 | 0.17 | 0.0% | 100.0% |",
        "| round_robin | virtual | 0.16 | 0.16 | 0.0% | 100.0% |",
    ]


@pytest.mark.parametrize(
    ("label", "outcome", "said"),
    [("my-run", "ok", "'my-run' is none"), ("dualmap", "broken", "none of its requests was served")],
)
def test_a_run_that_cannot_be_compared_is_one_line(tmp_path, capsys, label: str, outcome: str, said: str):
    assert main([str(run_file(tmp_path, label, outcome))]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
