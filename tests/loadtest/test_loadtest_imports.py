"""Locust monkey-patches the process that imports it, so nothing but the replay process may."""

import subprocess
import sys
from pathlib import Path

from dualmap import loadtest

PACKAGE = Path(loadtest.__file__).parent
MODULES = sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("[!_]*.py"))
REPLAY_PROCESS_ONLY = {"replay.open_loop", "replay.progress"}

LIST_PATCHED = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"dualmap.loadtest.{name}")
assert "locust" not in sys.modules
if "gevent.monkey" in sys.modules:
    assert not sys.modules["gevent.monkey"].is_module_patched("socket")
"""

LIST_HEAVY = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"dualmap.loadtest.{name}")
heavy = {"locust", "gevent", "msgspec", "pydantic", "ray"} & set(sys.modules)
assert not heavy, heavy
"""


def check(program: str, modules: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", program, *modules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_loadtest_modules_patches_nothing():
    check(LIST_PATCHED, [name for name in MODULES if name not in REPLAY_PROCESS_ONLY])


def test_the_commands_modules_are_light_to_import():
    check(LIST_HEAVY, ["cli.replay", "cli.report", "cli.trace"])
