"""The Instance actor's life without Ray: real servers, and what is reported to Fleet of them."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from instances.instance_actor import InstanceActor
from instances.instance_spec import InstanceSpec
from router.membership import Member, MemberState
from router.signals import InstanceSignals
from scheduler import InstanceCapacity

WAIT_S = 40.0
SIM = (sys.executable, "-m", "instances.sim_cli", "--port", "0")
LISTENS_AND_DIES = (sys.executable, "-c", "print('listening on http://127.0.0.1:9', flush=True)")


class Watched:
    """An actor in the running loop, and its reports in order."""

    def __init__(self, directory: Path, **spec) -> None:
        self.reports: list[Member] = []
        self.signals: list[InstanceSignals] = []
        self._news = asyncio.Event()
        self.actor = InstanceActor(InstanceSpec("i", InstanceCapacity(), directory / "i.log", **spec), self._report)

    async def _report(self, member: Member, signals: InstanceSignals) -> bool:
        self.reports.append(member)
        self.signals.append(signals)
        self._news.set()
        return True

    async def reported(self, wanted) -> Member:
        """The first report, of those past or to come, that is wanted."""
        async with asyncio.timeout(WAIT_S):
            while not (found := [m for m in self.reports if wanted(m)]):
                self._news.clear()
                await self._news.wait()
        return found[0]


@pytest.fixture
def life(tmp_path):
    """Runs a test's coroutine with an actor, which is stopped whatever happens."""

    def run(story, **spec) -> None:
        async def whole() -> None:
            watched = Watched(tmp_path, **spec)
            try:
                await story(watched)
            finally:
                await watched.actor.stop()

        asyncio.run(whole())

    return run


def is_ready(member: Member) -> bool:
    return member.state is MemberState.READY


def test_a_started_server_is_reported_with_its_address_models_and_pid(life):
    async def story(watched):
        member = await watched.reported(is_ready)
        assert watched.reports[0].state is MemberState.STARTING
        assert member.port > 0
        assert member.pid > 0
        assert [card["id"] for card in member.model_cards] == ["sim"]
        assert (await watched.actor.first_state())[0].state is MemberState.READY

    life(story, command=SIM)


def test_a_killed_server_is_lost_and_comes_back_as_a_higher_incarnation(life):
    async def story(watched):
        first = await watched.reported(is_ready)
        os.kill(first.pid, signal.SIGKILL)
        lost = await watched.reported(lambda m: m.state is MemberState.LOST)
        assert lost.incarnation == first.incarnation
        second = await watched.reported(lambda m: is_ready(m) and m.pid != first.pid)
        assert second.incarnation > first.incarnation
        assert "exited with code -9" in watched.actor.last_error

    life(story, command=SIM)


def test_stopping_reports_the_loss_and_ends_the_server(life):
    pids = []

    async def story(watched):
        pids.append((await watched.reported(is_ready)).pid)
        await watched.actor.stop()
        assert watched.reports[-1].state is MemberState.LOST

    life(story, command=SIM)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ((sys.executable, "-c", "import sys; sys.exit(4)"), "exited with code 4"),
        (LISTENS_AND_DIES, "exited with code 0"),
    ],
)
def test_a_server_that_does_not_come_up_is_decided_as_lost_with_the_reason(life, command, said):
    async def story(watched):
        async with asyncio.timeout(WAIT_S):
            member, error = await watched.actor.first_state()
        assert member.state in (MemberState.STARTING, MemberState.LOST)
        assert said in error

    life(story, command=command)


def test_a_watched_server_is_used_as_soon_as_it_answers(life, tmp_path):
    async def story(watched):
        await watched.reported(lambda m: m.state is MemberState.STARTING)
        port = watched.actor.member.port
        server = await asyncio.create_subprocess_exec(*SIM[:-1], str(port))
        try:
            member = await watched.reported(is_ready)
            assert (member.host, member.port, member.pid) == ("127.0.0.1", port, 0)
        finally:
            server.kill()
            await server.wait()
        await watched.reported(lambda m: m.state is MemberState.LOST)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    life(story, host="127.0.0.1", port=port)
