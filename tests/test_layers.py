"""No import runs up the layers, no imports go in a circle, no file is too long: the files are read, not run."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.layers import LAYERS, MOST_LINES

ROOT = Path(__file__).parents[1]
TOPS = ("scheduler", "instances", "router", "loadtest")


def package_files() -> dict[str, str]:
    """Module name -> path from the root."""
    paths = [path.relative_to(ROOT) for top in TOPS for path in (ROOT / top).rglob("*.py")]
    found = {".".join(("dualmap", *path.with_suffix("").parts)): str(path) for path in paths}
    found["dualmap.__init__"], found["dualmap.__main__"] = "src/dualmap/__init__.py", "src/dualmap/__main__.py"
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


def imported_names(source: str) -> Iterator[tuple[str, int]]:
    """Every name that may be a module, with its line: in functions and for type checkers, too, and as text, for
    importlib."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from ((alias.name, node.lineno) for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
            case ast.ImportFrom():
                raise AssertionError(f"line {node.lineno}: imports are absolute")
            case ast.Constant(value=str(text)):
                yield text, node.lineno


def imports_of(source: str, files: dict[str, str]) -> dict[str, int]:
    """The files that a source imports -> the first line that does. Of `from a import b`, a counts only where b is no
    module of it."""
    found: dict[str, int] = {}
    for name, line in imported_names(source):
        path = files.get(name) or files.get(name.rpartition(".")[0])
        if path is not None:
            found[path] = min(line, found.get(path, line))
    return found


@cache
def all_imports() -> dict[str, dict[str, int]]:
    files = package_files()
    return {path: imports_of((ROOT / path).read_text(), files) for path in files.values()}


def layer_of(path: str) -> int | None:
    whole = path.removesuffix(".py")
    folder = whole.rpartition("/")[0]
    for entry in (whole, folder):
        if entry in LAYERS:
            return LAYERS.index(entry)
    return None


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import dualmap.scheduler.ring", "scheduler/ring.py"),
        ("from dualmap.scheduler import Scheduler", "scheduler/__init__.py"),
        ("from dualmap.scheduler import ring", "scheduler/ring.py"),
        ("from dualmap.scheduler.ring import HashRing", "scheduler/ring.py"),
        ("def late():\n    from dualmap.router.cli import up", "router/cli/up.py"),
        ("if TYPE_CHECKING:\n    from dualmap.router.cli.up import run", "router/cli/up.py"),
        ("import_module('dualmap.router.cli.up')", "router/cli/up.py"),
    ],
)
def test_an_import_is_seen_wherever_it_stands(source: str, imported: str):
    assert list(imports_of(source, package_files())) == [imported]


def test_every_file_has_a_place_in_the_order_and_every_place_a_file():
    places = {path: layer_of(path) for path in all_imports()}
    assert not [path for path, place in places.items() if place is None]
    assert not [entry for place, entry in enumerate(LAYERS) if place not in places.values()]


def test_no_file_imports_from_a_layer_above_its_own():
    upwards = [
        f"{path}:{line} imports {imported}, which is above it"
        for path, found in all_imports().items()
        for imported, line in found.items()
        if layer_of(imported) > layer_of(path)
    ]
    assert not upwards, "\n".join(upwards)


def test_no_imports_go_in_a_circle():
    graph = {path: found.keys() - {path} for path, found in all_imports().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" is imported by ".join(error.args[1])) from None


def test_no_file_is_too_long_to_be_read():
    paths = [path for top in (*TOPS, "src/dualmap", "tests") for path in (ROOT / top).glob("**/*.py")]
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in paths}
    too_long = {path: lines for path, lines in lengths.items() if lines > MOST_LINES}
    assert not too_long, too_long
