"""One actor for each server that is started here: starts it, watches it, and tells Fleet what becomes of it and what it
says of itself."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from ray.util import get_node_ip_address

from dualmap.instances.actor.start_tries import StartTries
from dualmap.instances.server.process import ServerProcess, StartError
from dualmap.instances.server.reasons import ended, shortened
from dualmap.instances.server.start import start_server
from dualmap.instances.spec import InstanceSpec
from dualmap.instances.watcher.looks import ASLEEP, NotReadyError
from dualmap.instances.watcher.watched import READY_POLL_S, Watched
from dualmap.scheduler.fleet.member import Member, MemberState, ServerEnd
from dualmap.scheduler.fleet.messages import ReportAnswer
from dualmap.scheduler.fleet.signals import InstanceSignals
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters

logger = logging.getLogger(__name__)

HEARTBEAT_S = 1.0  # reports go out at least this often: Fleet takes silence as loss
NEWS_INTERVAL_S = 0.2  # and at most this often while there is news of its cache
PORT_TRIES = 3  # a port that was free when it was chosen may be taken when the server listens, a while later
PORT_TAKEN = "address already in use"
RESTARTED = "it was restarted on request"

Report = Callable[[Member, InstanceSignals, WantedAdapters], Awaitable[ReportAnswer]]


class InstanceActor:
    """report: sends the member's state, its signals and what it knows of adapters to Fleet, and returns what Fleet
    says; failing to is not an error, since the next heartbeat repeats it. node_host: the address at which others reach
    this node; None: Ray knows it."""

    def __init__(self, spec: InstanceSpec, report: Report, node_host: str | None = "127.0.0.1") -> None:
        self._spec = spec
        self._report = report
        self._host = spec.endpoint.host or node_host or _node_address()
        self._server: ServerProcess | None = None
        self._restarting = asyncio.Event()
        self._watched = Watched(spec, self._send)
        self.last_error = ""
        self._tries = StartTries(spec.start_timeout_s)
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._heartbeat())]

    @property
    def member(self) -> Member:
        return self._watched.member

    async def state(self) -> tuple[Member, str]:
        """The member as last reported, and why its last start or watch ended."""
        return self.member, self.last_error

    async def first_state(self) -> tuple[Member, str]:
        """The same, once it has come up or failed to for the first time."""
        await self._watched.decided.wait()
        return self.member, self.last_error

    async def drain(self) -> None:
        await self._watched.drain()

    async def undrain(self) -> None:
        await self._watched.undrain()

    async def restart_server(self) -> None:
        """Stop the server, which should have been drained, and start another; it is given requests when that is
        ready."""
        self._watched.forget_drain()
        self._restarting.set()

    async def stop(self) -> None:
        """Returns when the server is gone."""
        running, heartbeat = self._tasks
        running.cancel()
        await self._watched.become(MemberState.STOPPING)
        if self._server is not None:
            await self._server.stop()
        await self._watched.become(MemberState.STOPPED)
        heartbeat.cancel()
        self._watched.close()

    async def _run(self) -> None:
        while True:
            try:
                if self._server is None or self._server.ended:
                    await self._start_server()
                else:
                    await self._become_ready(self._server)
                self.last_error = str(await self._watched.live(self._ended, self._restart_wanted))
                after = self._tries.ended(self.last_error)
            except (StartError, OSError) as error:
                self.last_error = str(error)
                after = self._tries.failed(error.short if isinstance(error, StartError) else str(error))
            except Exception as error:  # whatever the server says, somebody looks after it
                logger.exception("%s is started again after an error", self._spec.instance_id)
                self.last_error = repr(error)
                after = self._tries.failed(self.last_error)
            self._watched.decided.set()
            await self._note_end()
            await self._end(*after)

    async def _note_end(self) -> None:
        server = self._server
        if server is not None and server.ended:
            self._watched.note_end(ServerEnd(await server.wait(), shortened(server.last_line())))

    async def _end(self, state: MemberState, reason: str) -> None:
        """The instance is lost, or its server did not start. state, reason: of the server from now on."""
        server, become = self._server, self._watched.become
        if self.last_error == ASLEEP:
            await become(MemberState.LOST, ASLEEP)
        elif server is None or self.last_error != RESTARTED:
            await become(state, reason)
            if server is not None:
                await server.stop()
        else:
            await become(MemberState.STOPPING, RESTARTED)
            await server.stop()
            await self._note_end()
            await become(MemberState.STARTING, RESTARTED)
            return
        await asyncio.sleep(self._tries.pause_s)

    async def _start_server(self) -> None:
        """Returns when it is ready. Raises StartError."""
        for tries_left in reversed(range(PORT_TRIES)):
            try:
                server, kv_events = await start_server(self._spec, self._host)
                self._server = server
                endpoint = replace(self._spec.endpoint, host=server.host, port=server.port)
                self._watched.reach(endpoint, server.pid, kv_events)
                try:
                    async with asyncio.timeout(self._spec.start_timeout_s):
                        await self._become_ready(server)
                except TimeoutError:
                    await server.stop()
                    late = f"did not answer within {self._spec.start_timeout_s:g} s"
                    raise server.start_error(late) from None
                return
            except StartError as error:
                if not tries_left or PORT_TAKEN not in str(error).lower():
                    raise

    async def _become_ready(self, server: ServerProcess) -> None:
        """Raises StartError when it ends before."""
        ready = False
        while not ready:
            with suppress(NotReadyError):
                await self._watched.look()
                ready = True
            if server.ended:  # whoever answered, it was another
                raise server.start_error(f"exited with code {await server.wait()} before it was ready")
            if not ready:
                await asyncio.sleep(READY_POLL_S)

    async def _ended(self) -> str:
        server = self._server
        assert server is not None
        return ended(await server.wait(), server.last_error())

    async def _restart_wanted(self) -> str:
        await self._restarting.wait()
        self._restarting.clear()
        return RESTARTED

    async def _heartbeat(self) -> None:
        signals = self._watched.signals
        while True:
            await self._send()
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await signals.has_news.wait()
            await asyncio.sleep(NEWS_INTERVAL_S)

    async def _send(self) -> None:
        watched = self._watched
        watched.hear(await self._report(watched.member, watched.signals.take(), watched.adapters.told()))


def _node_address() -> str:
    address: str = get_node_ip_address()  # type: ignore[no-untyped-call]
    return address
