"""deploy/prometheus: rules that promtool accepts, with cases in which each alert fires, on metrics that there are."""

import re
import shutil
import subprocess

import pytest
import yaml

from tests.conftest import WAIT_S
from tests.deploy.metric_names import ROOT, recorded, rules, served, used

FOLDER = ROOT / "deploy" / "prometheus"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is in Debian's package prometheus"
)


@needs_promtool
@pytest.mark.parametrize(
    "arguments", [("check", "config", "--syntax-only", "prometheus.yml"), ("test", "rules", "rules_test.yml")]
)
def test_promtool_finds_nothing_wrong(arguments):
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    cases = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    fires: dict[str, set[bool]] = {}
    for case in cases:
        for check in case.get("alert_rule_test", ()):
            fires.setdefault(check["alertname"], set()).add(bool(check["exp_alerts"]))
    assert fires == {rule["alert"]: {True, False} for rule in rules() if "alert" in rule}


def test_rules_read_only_metrics_of_the_table():
    assert used(rule["expr"] for rule in rules()) <= served() | recorded()


def test_each_alert_links_to_its_section_of_the_runbook():
    for rule in rules():
        if "alert" in rule:
            path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            assert anchor == rule["alert"].lower()
            assert f"\n## {rule['alert']}\n" in (ROOT / path).read_text()


def test_rules_keep_deployments_apart():
    """An average over the deployments of a cluster hides the one that fails."""
    for rule in rules():
        aggregations = re.findall(r"\b(?:sum|avg|max|min|count)\b(?: by \(([^)]*)\))?", rule["expr"])
        for labels in aggregations:
            assert labels.startswith("namespace, deployment"), rule
