"""Files of studies, as they are read, and the command that reports what is in them."""

import json

import pytest

from dualmap.loadtest.study.file import StudyFileError, is_study, read_studies
from dualmap.router.cli.main import main as dualmap
from tests.loadtest import fake_study


def report(*args: object) -> int:
    return dualmap(["report", *map(str, args)])


def test_the_command_tells_a_study_by_its_header_and_writes_page_and_markdown(full_study, tmp_path, capsys):
    html, markdown = tmp_path / "deep" / "s.html", tmp_path / "deep" / "s.md"
    assert report(full_study, "--html", html, "--markdown", markdown) == 0
    shown = capsys.readouterr().out
    assert "Nothing here ran on an accelerator" in shown
    assert "worst cell" in shown
    assert html.read_text().startswith("<!doctype html>")
    tables = [line for line in markdown.read_text().splitlines() if line.startswith("|")]
    assert any(line.startswith("| **dualmap** | **") for line in tables)
    assert any(line.startswith("| *bound* | *") for line in tables)


def test_two_files_of_one_study_are_read_together(tmp_path):
    for name, policy in (("one", "a"), ("two", "b")):
        rows = [fake_study.HEADER, {"kind": "decision_cost", "policy": policy, "instances": 8, "us": 60}]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_studies([tmp_path / "one", tmp_path / "two"])
    assert [cost.policy for cost in found.costs] == ["a", "b"]
    assert len(found.headers) == 2


def test_studies_and_replays_do_not_mix(full_study, tmp_path, capsys):
    replay = tmp_path / "replay.jsonl"
    replay.write_text('{"row":"run"}\n')
    assert report(replay, full_study) == 2
    assert "cannot be compared" in capsys.readouterr().err
    assert report(replay, "--markdown", tmp_path / "x.md") == 2
    assert "--markdown is for studies" in capsys.readouterr().err
    assert report(full_study, "--slo", 3) == 2
    assert "--slo is for replays" in capsys.readouterr().err


HEADER = json.dumps(fake_study.HEADER)
COST = '{"kind":"decision_cost","policy":"a","instances":8,"us":1}'


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ([HEADER, "nonsense"], "line 2"),
        ([HEADER, COST, '{"kind":"run"}'], "line 3.*missing required field"),
        ([HEADER, '{"kind":"surprise"}'], "line 2.*surprise"),
        ([HEADER, HEADER], "line 2: a second header"),
        ([COST], "line 1: no header"),
        ([HEADER.replace('"format": 1', '"format": 2')], "line 1: format 2"),
        ([HEADER], "without rows"),
        ([HEADER, COST.replace("8", '"x"')], "line 2.*instances"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, lines, wrong):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(StudyFileError, match=rf"x\.jsonl.*{wrong}"):
        read_studies([path])


def test_quantiles_must_be_a_hundred_and_one(tmp_path):
    row = fake_study.run(
        {"trace": "t", "policy": "a", "instances": 8, "seed": 0, "model": "m", "slo_s": 5.0}, 1, 1, _Rng()
    )
    (tmp_path / "x").write_text(HEADER + "\n" + json.dumps(row | {"ttft_quantiles": [1.0]}) + "\n")
    with pytest.raises(StudyFileError, match="line 2: ttft_quantiles has 1"):
        read_studies([tmp_path / "x"])


class _Rng:
    def uniform(self, low: float, high: float) -> float:
        return low


def test_a_missing_file_is_no_study(tmp_path):
    assert not is_study(tmp_path / "none")
    with pytest.raises(StudyFileError, match="none"):
        read_studies([tmp_path / "none"])
