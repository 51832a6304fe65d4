"""Wheels as machine code (setup.py): what is compiled, that nothing is where it cannot be, and what mypyc is given to
read in place of a dataclass."""

import dataclasses
import importlib.machinery
import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Final, get_origin

import pytest

from dualmap.scheduler.core import gate

ROOT = Path(__file__).parents[1]
SETUP = runpy.run_path(str(ROOT / "setup.py"))
SOURCE = '''"""A module."""

from dataclasses import KW_ONLY, dataclass, field
from enum import Enum, auto

from dualmap.scheduler.record import record

ORIGIN = 0
SIDES: dict[str, int] = {
    "left": -1,
}
axes = ["x", "y"]


class Turn(Enum):
    LEFT = auto()
    RIGHT = auto()


TO_LEFT, TO_RIGHT = Turn


@record
class Point:
    """Where it is.

    x, y: in metres.
    """

    x: int
    y: int = 2
    _: KW_ONLY
    names: list[str] = field(default_factory=list)

    @property
    def sum(self) -> int:
        return self.x + self.y


@dataclass(frozen=True, slots=True)
class Fixed:
    name: str


@dataclass(slots=True, kw_only=True)
class Named:
    name: str
    length: int = field(default=0, init=True)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a name is empty")
'''


def test_the_version_says_whether_it_is_compiled():
    version = subprocess.run([sys.executable, "-m", "dualmap", "--version"], capture_output=True, text=True).stdout
    compiled = not (gate.__file__ or "").endswith(".py")
    assert version.endswith("(compiled)\n" if compiled else "(pure Python)\n")
    searched = map(os.path.abspath, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    assert compiled == (str(ROOT / "build" / "compiled") in searched)


def test_every_file_that_is_listed_is_there():
    package = ROOT / "src" / "dualmap"
    files = {str(path.relative_to(package)) for path in SETUP["compiled_files"](package)}
    assert {"scheduler/core/gate.py", "scheduler/policies/dualmap.py", "router/requests/driver.py"} <= files
    assert all((package / name).is_file() for name in SETUP["PURE"])
    assert not files & {*SETUP["PURE"]}


def test_nothing_is_compiled_that_would_be_wrong_or_slower():
    for path in SETUP["compiled_files"](ROOT / "src" / "dualmap"):
        assert "(msgspec.Struct" not in path.read_text(), path
        assert "(asyncio.Protocol" not in path.read_text(), path


@pytest.fixture
def module(monkeypatch) -> dict:
    """What mypyc reads, run as Python."""
    monkeypatch.setitem(
        sys.modules, "points", importlib.util.module_from_spec(importlib.machinery.ModuleSpec("points", None))
    )
    names = vars(sys.modules["points"])
    exec(SETUP["for_mypyc"](SOURCE), names)
    return names


def test_a_record_is_made_as_before(module):
    point = module["Point"](1, names=["a"])
    assert (point.x, point.y, point.names, point.sum) == (1, 2, ["a"], 3)
    assert point == module["Point"](1, 2, names=["a"])
    assert module["Point"](1).names is not module["Point"](1).names
    with pytest.raises(TypeError, match="positional"):
        module["Point"](1, 2, ["a"])
    with pytest.raises(ValueError, match="a name is empty"):
        module["Named"](name="")


def test_a_record_knows_the_types_of_its_fields_and_who_is_frozen(module):
    assert [field.type for field in dataclasses.fields(module["Point"])] == [int, int, list[str]]
    assert [field.kw_only for field in dataclasses.fields(module["Point"])] == [False, False, True]
    fixed = object.__new__(module["Fixed"])  # machine code sets the fields without asking
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'name'"):
        fixed.name = "b"
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'name'"):
        del fixed.name
    named = module["Named"](name="a")
    named.name = "b"
    assert named == module["Named"](name="b")


def test_what_is_written_in_capitals_is_final_and_as_before(module):
    assert (module["ORIGIN"], module["SIDES"], module["TO_RIGHT"]) == (0, {"left": -1}, module["Turn"].RIGHT)
    final = {name for name, kind in module["__annotations__"].items() if Final in (kind, get_origin(kind))}
    assert final == {"ORIGIN", "SIDES", "TO_LEFT", "TO_RIGHT"}


def test_lines_keep_their_numbers():
    lines = SETUP["for_mypyc"](SOURCE).splitlines()
    assert lines.index("    def sum(self) -> int:") == SOURCE.splitlines().index("    def sum(self) -> int:")


@pytest.mark.parametrize("command", ["editable_wheel", "egg_info", "sdist"])
def test_nothing_but_a_wheel_is_compiled(monkeypatch, command: str):
    monkeypatch.setattr(sys, "argv", ["setup.py", command])
    assert SETUP["extensions"]() == []


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """A build where nothing can be compiled."""

    def fail() -> None:
        raise OSError("there is no\ncompiler")

    names = SETUP["extensions"].__globals__
    monkeypatch.setitem(names, "built_extensions", fail)
    monkeypatch.setitem(names, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["setup.py", "bdist_wheel"])
    monkeypatch.delenv("DUALMAP_COMPILE", raising=False)


def test_what_cannot_be_compiled_is_pure_python_and_says_so(broken, capsys):
    assert SETUP["extensions"]() == []
    why = "nothing could be compiled, so this wheel is pure Python: there is no compiler"
    assert capsys.readouterr().err == f"dualmap: {why}\n"


def test_a_wheel_that_must_be_compiled_fails_where_it_cannot_be(broken, monkeypatch):
    monkeypatch.setenv("DUALMAP_COMPILE", "1")
    with pytest.raises(OSError, match="compiler"):
        SETUP["extensions"]()


def test_a_wheel_of_pure_python_needs_no_compiler(broken, monkeypatch, capsys):
    monkeypatch.setenv("DUALMAP_COMPILE", "0")
    assert SETUP["extensions"]() == []
    assert capsys.readouterr().err == ""
