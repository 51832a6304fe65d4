"""Counted instructions: the load in step, what Callgrind counts, and the comparison with what was recorded."""

import json
import sys

import pytest

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead import counts
from dualmap.loadtest.overhead.counts import Counts, growth
from dualmap.loadtest.overhead.instructions import instructions_of, why_no_counts
from dualmap.loadtest.overhead.load import Load
from dualmap.loadtest.overhead.lockstep import Lockstep
from dualmap.loadtest.overhead.measured_proxy import ProxyError

RECORDED = Counts("3.11", 1000.0, {"8 KB": 600_000.0, "SSE chunk": 60_000.0})
SERVES = """
import sys
def serve(times):
    return sum(number * number for number in range(times))
for _ in range(2000):
    serve(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def valgrind():
    if reason := why_no_counts():
        pytest.skip(reason)


def test_a_load_in_step_gets_every_answer_and_every_chunk():
    (port,) = free_ports("127.0.0.1", 1)
    lockstep = Lockstep([port])
    with lockstep.serving():
        lockstep.run(Load(port, requests=5))
        lockstep.run(Load(port, stream_chunks=50))
        with pytest.raises(ProxyError, match="cannot be reached"):
            lockstep.run(Load(*free_ports("127.0.0.1", 1)))


def test_a_function_that_has_grown_slower_by_a_sixth_is_found_in_what_is_counted(tmp_path, valgrind):
    empty, before, after = (
        instructions_of([sys.executable, "-S", "-c", SERVES, times], tmp_path) for times in ("0", "60", "70")
    )
    by = growth(Counts("3.11", 1.0, {"serve": after - empty}), Counts("3.11", 1.0, {"serve": before - empty}))
    assert by["serve"] == pytest.approx(70 / 60, rel=0.03)
    assert by["serve"] > counts.TOO_MANY


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        (Counts("3.11", 1000.0, {"8 KB": 650_000.0, "SSE chunk": 50_000.0}), 0, ""),
        (Counts("3.11", 1000.0, {"8 KB": 667_000.0, "SSE chunk": 60_000.0}), 1, "8 KB takes 1.11 times"),
        (Counts("3.11", 1200.0, {"8 KB": 720_000.0, "SSE chunk": 72_000.0}), 0, ""),  # another build of Python
        (Counts("3.11", 500.0, {"SSE chunk": 60_000.0}), 1, "SSE chunk takes 2.00 times"),
        (Counts("3.12", 1000.0, {"8 KB": 900_000.0}), 0, "not compared"),
    ],
    ids=["less than a tenth", "more than a tenth", "slower Python", "faster Python", "other Python"],
)
def test_counts_that_have_grown_by_a_tenth_are_named(tmp_path, monkeypatch, capsys, found, status, said):
    recorded = tmp_path / "counts.json"
    recorded.write_text(json.dumps({"python": "3.11", "yardstick": 1000.0, "gateway": RECORDED.gateway}))
    monkeypatch.setattr(counts, "why_no_counts", lambda: None)
    monkeypatch.setattr(counts, "count", lambda *_: found)
    monkeypatch.setattr(sys, "argv", ["counts", "--recorded", str(recorded)])
    assert counts.main() == status
    assert said in capsys.readouterr().err


def test_what_is_recorded_is_what_was_counted_and_is_then_no_growth(tmp_path, monkeypatch):
    recorded = tmp_path / "counts.json"
    monkeypatch.setattr(counts, "why_no_counts", lambda: None)
    monkeypatch.setattr(counts, "count", lambda *_: RECORDED)
    monkeypatch.setattr(sys, "argv", ["counts", "--recorded", str(recorded), "--record"])
    assert counts.main() == 0
    assert json.loads(recorded.read_text())["gateway"] == RECORDED.gateway


def test_where_nothing_can_count_the_reason_is_said_and_nothing_fails(monkeypatch, capsys):
    monkeypatch.setattr(counts, "why_no_counts", lambda: "valgrind is not installed")
    monkeypatch.setattr(sys, "argv", ["counts"])
    assert counts.main() == 0
    assert "valgrind is not installed" in capsys.readouterr().err


def test_counts_are_recorded_for_every_column():
    assert set(json.loads(counts.RECORDED.read_text())["gateway"]) == set(counts.COLUMNS)
