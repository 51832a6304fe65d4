"""What all tests share: waits that end late, signals and examples that no clock decides; and what tests of whole
deployments share: every process they start can be found, and is ended."""

import os
import signal
import time
import uuid
from pathlib import Path

import hypothesis
import pytest

MARKER = "DUALMAP_TEST_MARK"
WAIT_S = 240.0  # only a broken test waits so long: beside many busy processes a Ray cluster takes minutes to start
POLL_S = 0.05
SEED = 7
RAY_PATIENCE = {"RAY_gcs_server_port_wait_time_s": f"{WAIT_S:.0f}"}

hypothesis.settings.register_profile(
    "off the clock", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("off the clock")


def pytest_configure() -> None:
    """A shell lets what it starts in the background ignore SIGINT, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each test draws the same numbers, whichever tests ran before it in this process."""
    numbers = getattr(getattr(item, "module", None), "RANDOM", None)
    if numbers is not None:
        numbers.seed(SEED)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clusters of Ray start one after the other, so that none takes another's ports or time; an Envoy and a browser are
    for all of their tests."""
    for item in items:
        for name in ("ray", "envoy", "browser"):
            if item.get_closest_marker(name) and not item.get_closest_marker("xdist_group"):
                item.add_marker(pytest.mark.xdist_group(name))


class ProcessFamily:
    """Processes that carry a mark in their environment, however far they have moved from whoever started them."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        # Ray says in the environment of a process that uses it how that shows itself: these begin anew.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
        self.environment = {**inherited, **RAY_PATIENCE, MARKER: self.mark}

    def living(self, name: str = "") -> dict[int, str]:
        """Those whose command line contains the name: pid -> command line."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{MARKER}={self.mark}".encode() in (path / "environ").read_bytes()
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
            if marked and command and name in command:
                found[int(path.name)] = command
        return found

    def kill(self) -> None:
        for pid in self.living():
            os.kill(pid, signal.SIGKILL)


def session_of(leader: int) -> dict[int, str]:
    """The living processes of a session: pid -> command line. vLLM's engines rewrite their own environment, so that no
    mark is found there."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            _, _, fields = (path / "stat").read_text().rpartition(")")
            state, _, _, session = fields.split()[:4]
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            found[int(path.name)] = command
    return found


def await_that(condition, what: str, within_s: float = WAIT_S):
    """Poll until the condition gives something true; fails the test when it never does."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(POLL_S)
    return found
