"""deploy/grafana: dashboards that can be imported as they are."""

import json
from pathlib import Path

import pytest

from tests.deploy.metric_names import ROOT, recorded, served, used

DASHBOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole_and_its_panels_stand_side_by_side(path: Path):
    board = json.loads(path.read_text())
    assert board["uid"] == f"dualmap-{path.stem}"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 8
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns, rows = (range(place[a], place[a] + place[b]) for a, b in (("x", "w"), ("y", "h")))
        cells = {(x, y) for x in columns for y in rows}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_there_is_one_for_each_question():
    assert [path.stem for path in DASHBOARDS] == ["autoscaling", "instances", "overview", "routing"]


def test_queries_read_only_what_is_served_or_recorded():
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    asked = (target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"])
    assert used(asked) <= served() | recorded()
