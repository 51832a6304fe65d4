"""The Instance actor's life without Ray: real servers, and what is reported to Fleet of them."""

import asyncio
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dualmap.instances.actor import start_tries
from dualmap.instances.actor.instance_actor import InstanceActor
from dualmap.instances.server import start as start_server
from dualmap.instances.server.start import free_ports
from dualmap.instances.spec import InstanceSpec
from dualmap.instances.watcher import watched as watched_module
from dualmap.scheduler import InstanceCapacity
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import ReportAnswer
from dualmap.scheduler.fleet.signals import InstanceSignals
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters
from tests.conftest import WAIT_S

SIM = (sys.executable, "-m", "dualmap.instances.simulated.cli", "--port", "0")
LISTENS_AND_DIES = (sys.executable, "-c", "print('listening on http://127.0.0.1:9', flush=True)")


class Watched:
    """An actor in the running loop, and its reports in order."""

    def __init__(self, directory: Path, **spec) -> None:
        self.reports: list[Member] = []
        self.signals: list[InstanceSignals] = []
        self._news = asyncio.Event()
        self.actor = InstanceActor(InstanceSpec("i", InstanceCapacity(), directory / "i.log", **spec), self._report)

    async def _report(self, member: Member, signals: InstanceSignals, adapters: WantedAdapters) -> ReportAnswer:
        self.reports.append(member)
        self.signals.append(signals)
        self._news.set()
        return ReportAnswer()

    def clear(self) -> None:
        self._news.clear()

    async def wait(self) -> None:
        """Until the next report after `clear`."""
        await self._news.wait()

    async def reported(self, wanted) -> Member:
        """The first report, of those past or to come, that is wanted."""
        async with asyncio.timeout(WAIT_S):
            while not (found := [m for m in self.reports if wanted(m)]):
                self.clear()
                await self.wait()
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
        assert member.endpoint.port > 0
        assert member.pid > 0
        assert [card["id"] for card in member.model_cards] == ["sim"]
        assert (await watched.actor.first_state())[0].state is MemberState.READY

    life(story, command=SIM)


def test_a_killed_server_is_started_again_as_a_higher_incarnation(life):
    async def story(watched):
        first = await watched.reported(is_ready)
        os.kill(first.pid, signal.SIGKILL)
        again = await watched.reported(lambda m: m.state is MemberState.STARTING and m.reason)
        assert again.reason == "its server ended with exit code -9: Killed; started again"
        assert again.incarnation == first.incarnation
        assert again.since >= first.since
        second = await watched.reported(lambda m: is_ready(m) and m.pid != first.pid)
        assert second.incarnation > first.incarnation
        assert second.reason == ""
        assert all(m.state is not MemberState.LOST for m in watched.reports)

    life(story, command=SIM)


def test_stopping_ends_the_server_and_says_so(life):
    pids = []

    async def story(watched):
        pids.append((await watched.reported(is_ready)).pid)
        await watched.actor.stop()
        states = [m.state for m in watched.reports]
        assert MemberState.STOPPING in states
        assert states[-1] is MemberState.STOPPED

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
def test_a_server_that_does_not_come_up_is_tried_again_and_lost_in_the_end_each_with_the_reason(
    life, command, said, monkeypatch
):
    monkeypatch.setattr(start_tries, "BACKOFF_S", (0.01,))

    async def story(watched):
        async with asyncio.timeout(WAIT_S):
            member, error = await watched.actor.first_state()
        assert member.state in (MemberState.STARTING, MemberState.LOST)
        assert said in error
        failed = await watched.reported(lambda m: m.reason)
        assert failed.state is MemberState.STARTING
        assert failed.reason.startswith(f"its start failed: it {said}")
        lost = await watched.reported(lambda m: m.state is MemberState.LOST)
        assert lost.reason.startswith(f"its start failed 3 times in a row: it {said}")

    life(story, command=command)


def test_a_port_that_was_taken_meanwhile_is_replaced_by_another(life, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        chosen = []

        def ports(host: str, count: int) -> list[int]:
            chosen.append(taken if not chosen else free_ports(host, 1)[0])
            return [chosen[-1], *free_ports(host, count - 1)]

        monkeypatch.setattr(start_server, "free_ports", ports)

        async def story(watched):
            member = await watched.reported(is_ready)
            assert chosen == [taken, member.endpoint.port]
            assert all(m.state is not MemberState.LOST for m in watched.reports)

        life(story, command=(*SIM[:-1], "{port}"))


def test_a_server_that_never_answers_is_stopped_and_said_to_have_been_late(life):
    pids = []

    async def story(watched):
        async with asyncio.timeout(WAIT_S):
            _, error = await watched.actor.first_state()
        assert "did not answer within 3 s" in error
        pids.append(watched.actor.member.pid)

    command = (sys.executable, "-c", "import time; print('loading'); time.sleep(60)", "{port}")
    life(story, command=command, start_timeout_s=3.0)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_the_size_of_the_cache_is_asked_of_the_server(life):
    async def story(watched):
        member = await watched.reported(is_ready)
        assert member.capacity.kv_tokens == 16_000

    life(story, command=(*SIM, "--kv-tokens", "16000"))


def test_load_is_reported_with_its_age(life):
    async def story(watched):
        await watched.reported(is_ready)
        async with asyncio.timeout(WAIT_S):
            while not any(signals.load for signals in watched.signals):
                watched.clear()
                await watched.wait()
        sample = next(signals for signals in watched.signals if signals.load)
        assert (sample.load.running, sample.load.waiting) == (0, 0)
        assert 0 <= sample.load_age_s < WAIT_S

    life(story, command=SIM)


def test_a_drained_server_runs_on_and_can_be_given_requests_again(life):
    async def story(watched):
        first = await watched.reported(is_ready)
        await watched.actor.drain()
        draining = watched.reports[-1]
        assert draining == replace(first, state=MemberState.DRAINING, since=draining.since)
        assert draining.since >= first.since
        await watched.actor.undrain()
        assert watched.reports[-1] == replace(first, since=watched.reports[-1].since)

    life(story, command=SIM)


def test_a_server_that_dies_while_it_drains_comes_back_draining(life):
    async def story(watched):
        first = await watched.reported(is_ready)
        await watched.actor.drain()
        os.kill(first.pid, signal.SIGKILL)
        await watched.reported(lambda m: m.state is MemberState.DRAINING and m.incarnation > first.incarnation)
        assert not any(is_ready(m) and m.incarnation > first.incarnation for m in watched.reports)

    life(story, command=SIM)


def test_a_restarted_server_is_another_process_and_drains_no_more(life):
    async def story(watched):
        first = await watched.reported(is_ready)
        await watched.actor.drain()
        await watched.actor.restart_server()
        second = await watched.reported(lambda m: is_ready(m) and m.incarnation > first.incarnation)
        assert second.pid != first.pid
        with pytest.raises(ProcessLookupError):
            os.kill(first.pid, 0)

    life(story, command=SIM)


def test_an_error_of_ours_does_not_leave_a_server_unwatched(life, monkeypatch, caplog):
    follow = watched_module.Watched._follow
    lives = []

    async def wrong(self):
        lives.append(self)
        if len(lives) == 1:
            raise KeyError("x")
        return await follow(self)

    monkeypatch.setattr(watched_module.Watched, "_follow", wrong)

    async def story(watched):
        first = await watched.reported(is_ready)
        again = await watched.reported(lambda m: m.state is MemberState.STARTING and m.reason)
        assert again.reason == "its start failed: KeyError('x')"
        await watched.reported(lambda m: is_ready(m) and m.pid != first.pid)
        assert len([record for record in caplog.records if record.exc_info]) == 1

    life(story, command=SIM)
