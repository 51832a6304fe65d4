"""Documents point to what is there."""

from pathlib import Path

import pytest

from tests.deploy.metric_names import rules
from tests.docs.markdown import ROOT, anchors, broken, documents

README_LINES = 150
HISTORY = ("CHANGELOG.md", "docs/results/")  # name files as they were then


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(document: Path):
    old = str(document.relative_to(ROOT)).startswith(HISTORY)
    assert [problem for problem in broken(document) if not (old and problem.startswith("`"))] == []


def test_a_broken_link_a_missing_heading_module_and_file_are_found(tmp_path: Path):
    document = tmp_path / "a.md"
    document.write_text(
        "# One\n[a](b.md) [b](#two) [c](#one) `router/nothing.py`\n```\n[d](e.md)\n```\n    python -m tests.no\n"
    )
    found = broken(document)
    assert [problem.partition(":")[0] for problem in found] == ["b.md", "#two", "tests.no", "`router/nothing.py`"]


def test_headings_have_the_anchors_of_github(tmp_path: Path):
    document = tmp_path / "a.md"
    document.write_text("# `instances[].kv_events`\n## What is *not* built\n## A\n## A\n")
    assert anchors(document) == {"instanceskv_events", "what-is-not-built", "a", "a-1"}


def test_the_readme_is_a_page_and_not_a_book():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_every_alert_has_its_part_of_the_runbook():
    runbook = ROOT / "docs" / "how-to" / "monitoring.md"
    alerts = {rule["alert"].lower() for rule in rules() if "alert" in rule}
    assert alerts <= anchors(runbook)


def test_every_decision_is_in_the_index_with_its_status():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    for record in sorted(folder.glob("0*.md")):
        lines = record.read_text().splitlines()
        assert lines[0].startswith(f"# {int(record.name[:4])}. "), record.name
        assert lines[1].startswith("Status: "), record.name
        assert f"]({record.name})" in index, record.name
