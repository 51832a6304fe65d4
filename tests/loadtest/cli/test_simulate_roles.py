"""`dualmap simulate` with roles, and with roles whose numbers change."""

import json
from pathlib import Path

import pytest

from dualmap.router.cli.main import main as dualmap
from tests.loadtest.cli.test_simulate_cli import trace

__all__ = ["trace"]


def test_instances_have_roles(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = ["simulate", str(trace), "--limit", "100", "--warmup", "10", "--jobs", "1", "--qps", "2"]
    assert dualmap([*split, "--prefill", "1", "--decode", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["dualmap", "3", "2"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--prefill", "1"], "--prefill and --decode go together, with at least one instance each, not --prefill 1"),
        (["--decode", "3"], "at least one instance each, not --decode 3"),
        (["--prefill", "0", "--decode", "3"], "at least one instance each, not --prefill 0 --decode 3"),
        (["--prefill", "2", "--decode", "-1"], "at least one instance each, not --prefill 2 --decode -1"),
        (["--decode", "3", "--scale", "1-4"], "at least one instance each, not --decode 3"),
        (["--prefill", "2", "--decode", "2", "--bound"], "--bound is for instances that each do both"),
        (["--prefill", "2", "--decode", "2", "--cells", "2"], "--cells is for instances that each do both"),
    ],
)
def test_refuses_roles_that_no_cluster_can_have(
    trace: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    assert dualmap(["simulate", str(trace), "--warmup", "0", "--qps", "1", *more]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1


def test_a_cluster_with_roles_neither_scales_nor_has_a_size_of_its_own(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for other in (["--scale", "1-4"], ["--instances", "4"]):
        with pytest.raises(SystemExit):
            dualmap(["simulate", str(trace), "--qps", "1", "--prefill", "2", "--decode", "2", *other])
        assert f"argument {other[0]}: not allowed with argument --prefill" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("roles", "setup"),
    [
        (["--prefill", "1-2", "--decode", "1-3"], "1 to 2 prefill and 1 to 3 decode"),
        (["--prefill", "2", "--decode", "1", "--change-roles"], "2 prefill and 1 decode that change roles"),
    ],
)
def test_roles_are_scaled_and_instances_change_theirs(
    trace: Path, tmp_path: Path, roles: list[str], setup: str
) -> None:
    out = tmp_path / "study.jsonl"
    common = ["simulate", str(trace), "--limit", "100", "--warmup", "10", "--jobs", "1", "--qps", "2"]
    assert dualmap([*common, *roles, "--out", str(out)]) == 0
    (run,) = (row for row in map(json.loads, out.read_text().splitlines()) if "instance_s" in row)
    assert setup in run["setup"]
    assert run["failed"] == 0
    assert run["instance_s"] > 0


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--change-roles"], "--change-roles is for instances with roles"),
        (
            ["--prefill", "1-4", "--decode", "2"],
            "both are numbers, with --change-roles or without, or both are MIN-MAX",
        ),
        (
            ["--prefill", "1-4", "--decode", "2-4", "--change-roles"],
            "or both are MIN-MAX, not --prefill 1-4 --decode 2-4",
        ),
        (["--prefill", "4-1", "--decode", "2-4"], "--prefill takes MIN-MAX"),
        (["--prefill", "two", "--decode", "2"], "at least one instance each, not --prefill two --decode 2"),
        (["--prefill", "1-4", "--decode", "2-4", "--disturbance", "slow-one"], "is for instances that nothing scales"),
    ],
)
def test_refuses_numbers_that_do_not_go_together(
    trace: Path, capsys: pytest.CaptureFixture[str], more: list[str], expected: str
) -> None:
    assert dualmap(["simulate", str(trace), "--warmup", "0", "--qps", "1", *more]) == 2
    assert expected in capsys.readouterr().err
