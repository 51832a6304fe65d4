"""What a shorter tail costs: a table and a picture, on a workload of seconds."""

from xml.etree import ElementTree

import pytest

from dualmap.loadtest.experiments import tail_frontier
from dualmap.loadtest.study.log import StudyLog
from dualmap.loadtest.virtual.simulated_workload import Setup
from dualmap.scheduler.config import SchedulerConfig


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_frontier, "PATIENCE", (1.0, SchedulerConfig().patience_slos))
    monkeypatch.setattr(tail_frontier, "HANDICAPS", (SchedulerConfig().length_handicap,))
    monkeypatch.setattr(tail_frontier, "WINDOWS", (SchedulerConfig().release_window_s, 1.3))
    monkeypatch.setattr(tail_frontier, "PEERS", ("least_loaded",))


@pytest.mark.release
def test_a_table_and_a_picture_come_of_a_measurement(few: None) -> None:
    setup = Setup("synth:low-reuse", instances=2, limit=120, warmup=20)
    with StudyLog(None) as log:
        points, rates = tail_frontier.measure(setup, log, 1)
    assert [(p.policy, p.settings) for p in points] == [
        ("dualmap", {}),
        ("dualmap", {"release_window_s": 1.3}),
        ("dualmap", {"patience_slos": 1.0}),
        ("least_loaded", {}),
    ]
    assert rates[0] == pytest.approx(0.9 * rates[1], rel=0.02)
    for point in points:
        assert point.capacities[0] >= point.capacities[1] > 0
        assert [run.qps for run in point.tails] == rates
    lines = tail_frontier.table("full", points, rates)
    assert len(lines) == 1 + len(points)
    assert any(line.endswith("*") for line in lines)
    picture = ElementTree.fromstring(tail_frontier.picture_of(points, rates))
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"


def test_a_trace_that_is_not_there_is_said_in_a_line(few: None, tmp_path, capsys) -> None:
    assert tail_frontier.main(["--traces", str(tmp_path), "--out", str(tmp_path / "rows.jsonl"), "--jobs", "1"]) != 0
    assert "mooncake_conversation.jsonl" in capsys.readouterr().err
