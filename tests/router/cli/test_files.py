"""`dualmap files`: what a pip user deploys with, from the package."""

from pathlib import Path

import pytest

from dualmap.router.cli.files import KINDS
from dualmap.router.cli.main import main

DEPLOY = Path(__file__).parents[3] / "deploy"


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"config"}))
def test_a_kind_is_the_folder_of_its_name(kind: str, tmp_path: Path, capsys):
    assert main(["files", kind, "--out", str(tmp_path / "new" / "folder")]) == 0
    written = below(tmp_path / "new" / "folder")
    assert written == below(DEPLOY / kind)
    assert written
    assert sorted(capsys.readouterr().out.split()) == sorted(str(tmp_path / "new/folder" / name) for name in written)
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


def test_config_goes_into_the_current_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["files", "config"]) == 0
    assert below(tmp_path) == {"dualmap.yaml": (DEPLOY / "dualmap.yaml").read_bytes()}


def test_a_file_that_is_there_stays_and_nothing_else_is_written(tmp_path: Path, capsys):
    mine = tmp_path / "rules.yml"
    mine.write_text("mine")
    assert main(["files", "prometheus", "--out", str(tmp_path)]) == 1
    assert below(tmp_path) == {"rules.yml": b"mine"}
    assert capsys.readouterr().err == f"error: {mine} is there; --force replaces it\n"
    assert main(["files", "prometheus", "--out", str(tmp_path), "--force"]) == 0
    assert below(tmp_path) == below(DEPLOY / "prometheus")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    assert main(["files", "config", "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.splitlines() == [f"error: {tmp_path / 'file'}: File exists"]


def test_an_unknown_kind_is_told_the_known_ones(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["files", "docker"])
    assert ended.value.code == 2
    assert "'helm'" in capsys.readouterr().err
