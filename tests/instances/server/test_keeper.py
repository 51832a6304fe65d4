"""The keeper against real processes: whatever ends the owner ends the server and all it has started."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dualmap.instances.server.process import ServerProcess, StartError
from tests.conftest import WAIT_S, await_that

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
    except (FileNotFoundError, ProcessLookupError):
        return False


def await_gone(*pids: int) -> None:
    await_that(lambda: not any(alive(pid) for pid in pids), "no process is left behind")


class Kept:
    """A keeper with a server that has a child. `owner` holds the keeper's input; `said` is what it says."""

    def __init__(self, prelude: str = "") -> None:
        command = [
            sys.executable,
            "-m",
            "dualmap.instances.server.keeper",
            "0.3",
            sys.executable,
            "-c",
            SERVER.format(prelude=prelude),
        ]
        self.owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = self.owner.stdout
        self.server, self.child = (int(self.said.readline().split()[1]) for _ in range(2))
        self.said.readline()

    def clean_up(self) -> None:
        for pid in (self.child, self.server):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.owner.wait()
        self.owner.stdin.close()
        self.said.close()


@pytest.fixture
def kept(request):
    kept = Kept(getattr(request, "param", ""))
    yield kept
    kept.clean_up()


def test_closing_its_input_ends_the_server_and_its_children(kept):
    kept.owner.stdin.close()
    assert kept.said.read() == f"exit -{signal.SIGTERM.value}\n"
    await_gone(kept.server, kept.child)


@pytest.mark.parametrize("kept", ["signal.signal(signal.SIGTERM, signal.SIG_IGN)"], indirect=True)
def test_a_server_that_ignores_sigterm_is_killed_after_the_grace_time(kept):
    kept.owner.stdin.close()
    assert kept.said.read() == f"exit -{signal.SIGKILL.value}\n"
    await_gone(kept.server, kept.child)


def test_children_of_a_killed_server_do_not_outlive_it(kept):
    os.kill(kept.server, signal.SIGKILL)
    assert kept.said.read() == f"exit -{signal.SIGKILL.value}\n"
    await_gone(kept.child)


def test_a_killed_owner_takes_the_server_with_it():
    keeper = ["-m", "dualmap.instances.server.keeper", "0.3", sys.executable, "-c", SERVER.format(prelude="")]
    script = f"""
import subprocess, sys, time
from tests.conftest import WAIT_S
subprocess.Popen([sys.executable, *{keeper!r}], stdin=subprocess.PIPE)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        server, child = (int(owner.stdout.readline().split()[1]) for _ in range(2))
        owner.kill()
    await_gone(server, child)


def test_a_killed_keeper_takes_the_server_with_it(kept):
    keeper = int(Path(f"/proc/{kept.server}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(keeper, signal.SIGKILL)
    await_gone(kept.server)


def test_a_command_that_cannot_be_run_is_said_to_be():
    async def start() -> None:
        await ServerProcess(("/no/such/server",), Path(os.devnull), stop_grace_s=0.3).start(timeout_s=WAIT_S)

    with pytest.raises(StartError, match="/no/such/server exited with code 127"):
        asyncio.run(start())


def test_a_failed_start_tells_the_exit_code_and_the_end_of_the_log(tmp_path):
    script = "import sys; print('no such model', file=sys.stderr); sys.exit(3)"

    async def start() -> None:
        await ServerProcess((sys.executable, "-c", script), tmp_path / "server.log", 0.3).start(timeout_s=WAIT_S)

    with pytest.raises(StartError, match=r"exited with code 3(.|\n)*no such model"):
        asyncio.run(start())


def test_a_server_that_never_listens_is_stopped_and_said_to_be_late(tmp_path):
    servers = []

    async def start() -> None:
        servers.append(ServerProcess((sys.executable, "-c", "import time; time.sleep(600)"), tmp_path / "log", 0.3))
        await servers[0].start(timeout_s=0.5)

    with pytest.raises(StartError, match=r"did not listen within 0\.5 s"):
        asyncio.run(start())
    await_gone(servers[0].pid)


OWNER = """
import asyncio, sys
from pathlib import Path
from dualmap.instances.server.process import ServerProcess

async def main():
    server = ServerProcess((sys.executable, "-c", sys.argv[1]), Path(sys.argv[2]), 0.3)
    await server.start(60.0)
    print(server.pid, flush=True)

asyncio.run(main())
"""


def test_an_owner_that_ends_by_itself_does_not_wait_for_its_server(tmp_path):
    """An actor that gets SIGTERM ends like this."""
    command = [sys.executable, "-c", OWNER, SERVER.format(prelude=""), str(tmp_path / "server.log")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    await_gone(int(done.stdout))


def test_a_full_disk_costs_lines_of_the_log_and_not_the_server():
    async def start() -> int:
        lines = "for number in range(100): print(number, flush=True)"
        server = ServerProcess((sys.executable, "-c", SERVER.format(prelude=lines)), Path("/dev/full"), 0.3)
        await server.start(WAIT_S)
        assert server.port == 12345
        assert not server.ended
        await server.stop()
        return await server.wait()

    assert asyncio.run(start()) == -signal.SIGTERM


@pytest.mark.parametrize("said", [b"\xff\xfe", b"exit now", b"pid 7", b"exit"])
def test_a_server_may_write_what_it_likes(tmp_path, said):
    async def start() -> int:
        lines = f"import os; os.write(1, {said!r} + bytes([10]))"
        server = ServerProcess((sys.executable, "-c", SERVER.format(prelude=lines)), tmp_path / "log", 0.3)
        async with asyncio.timeout(WAIT_S):
            await server.start(WAIT_S)
            assert server.port == 12345
            assert not server.ended
            await server.stop()
            return await server.wait()

    assert asyncio.run(start()) == -signal.SIGTERM
    assert said.decode(errors="replace") in (tmp_path / "log").read_text()
