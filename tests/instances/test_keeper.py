"""The keeper against real processes: whatever ends the owner ends the server and all it has started."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instances.server_process import ServerProcess, StartError

# A server with a child of its own, as vLLM has its engine: prints the child's pid, then that it listens.
SERVER = """
import subprocess, sys, signal
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
{prelude}
print(f"child {{child.pid}}", flush=True)
print("listening on http://127.0.0.1:12345", flush=True)
signal.pause()
"""


def alive(pid: int) -> bool:
    """Zombies count as gone: nothing reaps orphans in a bare container."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_gone(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "processes are left behind"
        time.sleep(0.02)


@pytest.fixture
def kept(request):
    """A keeper with a server that has a child: (keeper, server pid, child pid)."""
    script = SERVER.format(prelude=getattr(request, "param", ""))
    keeper = subprocess.Popen(
        [sys.executable, "-m", "instances.keeper", "0.3", sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    server, child = (int(keeper.stdout.readline().split()[1]) for _ in range(2))
    keeper.stdout.readline()
    yield keeper, server, child
    for pid in (child, server):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    if keeper.poll() is None:
        keeper.kill()
    keeper.wait()
    keeper.stdin.close()
    keeper.stdout.close()


def test_closing_its_input_ends_the_server_and_its_children(kept):
    keeper, server, child = kept
    keeper.stdin.close()
    keeper.wait(timeout=20)
    await_gone(server, child)


@pytest.mark.parametrize("kept", ["signal.signal(signal.SIGTERM, signal.SIG_IGN)"], indirect=True)
def test_a_server_that_ignores_sigterm_is_killed_after_the_grace_time(kept):
    keeper, server, child = kept
    keeper.stdin.close()
    assert keeper.wait(timeout=20) == signal.SIGKILL
    await_gone(server, child)


def test_children_of_a_killed_server_do_not_outlive_it(kept):
    keeper, server, child = kept
    os.kill(server, signal.SIGKILL)
    assert keeper.wait(timeout=20) == signal.SIGKILL
    await_gone(child)


def test_a_killed_owner_takes_the_server_with_it():
    owner_script = f"""
import subprocess, sys
command = [sys.executable, "-m", "instances.keeper", "0.3", sys.executable, "-c", {SERVER.format(prelude="")!r}]
subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True).wait()
"""
    owner = subprocess.Popen([sys.executable, "-c", owner_script], stdout=subprocess.PIPE, text=True)
    server, child = (int(owner.stdout.readline().split()[1]) for _ in range(2))
    owner.kill()
    owner.communicate()
    await_gone(server, child)


def test_a_failed_start_tells_the_exit_code_and_the_end_of_the_log(tmp_path):
    script = "import sys; print('no such model', file=sys.stderr); sys.exit(3)"
    server = ServerProcess((sys.executable, "-c", script), tmp_path / "server.log", stop_grace_s=0.3)
    with pytest.raises(StartError, match=r"exited with code 3(.|\n)*no such model"):
        asyncio.run(server.start(timeout_s=20))


def test_a_server_that_never_listens_is_stopped_and_said_to_be_late(tmp_path):
    server = ServerProcess((sys.executable, "-c", "import time; time.sleep(600)"), tmp_path / "server.log", 0.3)
    with pytest.raises(StartError, match=r"did not listen within 0\.5 s"):
        asyncio.run(server.start(timeout_s=0.5))
    await_gone(server.pid)
