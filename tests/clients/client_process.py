"""A client that others wrote, in a process of its own environment, and what tests see of a gateway in front of it."""

import json
import os
import queue
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WAIT_S

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / ".venv-clients"
PYTHON = CLIENTS / "bin" / "python"
CALLS = Path(__file__).parent / "calls"
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "PYTHONUNBUFFERED": "1",
}


def client_environment(**variables: str) -> dict[str, str]:
    """Nothing of the caller's own keys and addresses."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {**kept, **OFFLINE, "CLIENTS": str(CLIENTS), **variables}


def need(path: Path) -> Path:
    """Skips the test where the clients, or this one of them, are not installed."""
    if not path.exists():
        pytest.skip(f"{path} is missing: make clients")
    return path


class ClientProcess:
    """One of the scripts beside this file, whose functions a test calls: `client("chat", text="hello")`."""

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=client_environment(**environment),
                cwd=log.parent,
            )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def __call__(self, call: str, **arguments: Any) -> Any:
        """Its value. Fails the test with the client's own traceback."""
        self._process.stdin.write(json.dumps([call, arguments]) + "\n")
        self._process.stdin.flush()
        line = self._answers.get(timeout=WAIT_S)
        assert line, f"the client has ended: {self._log.read_text()[-4000:]}"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def counters(metrics: str, name: str) -> dict[str, float]:
    """The samples of a metric, by the value of its only label, "" where it has none."""
    found = re.findall(rf'^{name}(?:{{\w+="([^"]*)"}})? (\S+)$', metrics, re.MULTILINE)
    return {label: float(value) for label, value in found}
