"""Real and simulated servers side by side: what is counted, and when the two agree."""

import subprocess
import sys
from pathlib import Path

import pytest

from dualmap.instances.server.metrics import ServerMetrics
from dualmap.loadtest.experiments.real_agreement_table import AgreementSide, holds, side, table
from dualmap.loadtest.replay.run_file import Outcome, RequestRow
from tests.conftest import WAIT_S
from tests.loadtest.made import run_header

HEADER = run_header(label="real", requests=10, slo_s=2.0)
BEFORE = [ServerMetrics(prefix_queries_tokens=1000, prefix_hits_tokens=900), ServerMetrics()]


def side_of(ttft_s: float = 1.0, tail_s: float = 2.0, hits: int = 600) -> AgreementSide:
    """Ten requests, two of them with the longer TTFT; of 1,000 prompt tokens so many were found cached."""
    rows = [
        RequestRow(
            index=i,
            outcome=Outcome.OK,
            scheduled_s=i,
            released_s=i,
            ttft_s=tail_s if i >= 8 else ttft_s,
            mean_inter_token_s=0.1,
            e2e_s=5.0,
            completion_tokens=7,
            queue_ms=250.0,
        )
        for i in range(10)
    ]
    after = [
        ServerMetrics(prefix_queries_tokens=1500, prefix_hits_tokens=900 + hits),
        ServerMetrics(prefix_queries_tokens=500),
    ]
    return side(HEADER, rows, BEFORE, after)


def test_hits_are_counted_over_all_servers_from_where_they_stood() -> None:
    counted = side_of()
    assert counted.hit_rate == pytest.approx(0.6)
    assert counted.tokens_per_s == pytest.approx(70 / 14)
    assert counted.queued_p90_s == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("simulated", "agrees"),
    [
        (side_of(), True),
        (side_of(ttft_s=1.14), True),
        (side_of(ttft_s=1.16), False),
        (side_of(ttft_s=0.84), False),
        (side_of(tail_s=2.4), True),
        (side_of(tail_s=2.6), False),
        (side_of(hits=619), True),
        (side_of(hits=579), False),
    ],
)
def test_they_agree_within_15_percent_25_percent_and_2_points(simulated: AgreementSide, agrees: bool) -> None:
    assert holds(side_of(), simulated) == agrees


def test_the_table_shows_both_and_how_far_apart_they_are() -> None:
    lines = table(side_of(), side_of(ttft_s=1.1, hits=590)).splitlines()
    assert "| answered | 10 | 10 | |" in lines
    assert "| TTFT P50 | 1.000 s | 1.100 s | +10.0% |" in lines
    assert "| prompt tokens found cached | 60.0% | 59.0% | -1.0 points |" in lines
    assert all(line.count("|") == 5 for line in lines)


def test_without_vllm_it_says_so(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "dualmap.loadtest.experiments.real_agreement",
        "--vllm",
        "no-such-vllm",
        "--model",
        str(tmp_path),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ended.returncode == 1
    assert "'no-such-vllm' was found neither" in ended.stderr
