"""deploy/grafana: dashboards that can be imported as they are."""

import json
import re
from pathlib import Path

import pytest

from tests.deploy.metric_names import ROOT, recorded, rules, served, used

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


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_each_query_asks_for_what_is_chosen_above(path: Path):
    board = json.loads(path.read_text())
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables[:3] == ["datasource", "namespace", "deployment"]
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for expression in (*expressions, *(note["expr"] for note in board["annotations"]["list"])):
        for selector in re.findall(r"\{([^}]*)\}", expression):
            assert {'namespace=~"$namespace"', 'deployment=~"$deployment"'} <= set(selector.split(",")), expression
    asked = set(re.findall(r'=~"\$(\w+)"', " ".join(expressions)))
    assert asked == set(variables) - {"datasource"}


@pytest.mark.parametrize(
    ("board", "title", "alert", "threshold"),
    [
        ("overview", "Failed answers", "DualMapAnswersFailed", 0.001),
        ("overview", "Error budget burnt", "DualMapObjectiveMissedFast", 6),
        ("overview", "Error budget burnt", "DualMapObjectiveMissedSlowly", 2),
        ("overview", "Waiting requests", "DualMapQueueGrowing", 50),
        ("instances", "Age of signals", "DualMapSignalsStale", 10),
        ("autoscaling", "Silence of Fleet", "DualMapFleetAway", 15),
    ],
)
def test_a_panel_shows_the_threshold_of_its_alert(board: str, title: str, alert: str, threshold: float):
    panels = json.loads((ROOT / "deploy" / "grafana" / f"{board}.json").read_text())["panels"]
    (panel,) = (panel for panel in panels if panel["title"] == title)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert threshold in [step["value"] for step in steps]
    (rule,) = (rule for rule in rules() if rule.get("alert") == alert)
    assert f"> {threshold}" in rule["expr"]
