"""`dualmap up` in a folder whose own `dualmap` Ray's workers would import instead of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dualmap
from tests.conftest import WAIT_S

UP = (sys.executable, "-P", "-m", "dualmap", "up", "--simulate", "1", "--port", "0", "--admin-port", "0")


@pytest.mark.parametrize("name", ["dualmap.py", "dualmap/__init__.py"])
def test_another_dualmap_is_named_before_anything_starts(name: str, tmp_path: Path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    ours = os.pathsep.join([str(Path(dualmap.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        UP, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ours}, capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path / name} hides this program from its processes: start it in another folder\n"
    )
    assert "starting" not in done.stdout
