"""The core only thinks: what a file of it imports is read, not run."""

import ast
import sys
from pathlib import Path

import pytest

from dualmap import scheduler

ROOT = Path(scheduler.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ALLOWED_OUTSIDE = {"dualmap", "xxhash"}
FORBIDDEN = {"asyncio", "importlib", "logging", "os", "random", "selectors", "socket", "ssl"}
FORBIDDEN |= {"subprocess", "threading", "time"}


def imported_modules(source: str) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            modules.add((node.module or "").partition(".")[0])
    return modules


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_imports_only_the_standard_library_and_xxhash(path: Path):
    outside = imported_modules(path.read_text()) - ALLOWED_OUTSIDE
    assert outside <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_imports_no_io_clock_randomness_threads_or_logging(path: Path):
    assert not imported_modules(path.read_text()) & FORBIDDEN


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_never_uses_the_hash_that_differs_between_processes(path: Path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in ("hash", "open", "print", "id")]
