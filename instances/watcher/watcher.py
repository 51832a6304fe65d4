"""Watcher: an actor that watches all servers which were not started here. It keeps nothing that `dualmap up`, which
says what is to be watched, and Fleet do not bring back."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from dualmap.instances.server.shared_client import SharedClient
from dualmap.instances.spec import InstanceSpec
from dualmap.instances.watcher.first_look import FirstLook
from dualmap.instances.watcher.watched import Watched
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import SERVING, Member
from dualmap.scheduler.fleet.messages import ALL_KNOWN, Beat, FleetState, InstanceReport, ReportAnswer

ROUND_S = 0.25  # between reports: each server's last load is told soon after it was seen
HEARTBEAT_S = 1.0  # of a server of which nothing was seen: Fleet takes silence as loss


class Fleet(Protocol):
    """See FleetClient."""

    async def report_many(
        self, reports: tuple[InstanceReport, ...], beats: tuple[Beat, ...]
    ) -> dict[str, ReportAnswer] | None: ...

    async def state(self) -> FleetState | None: ...


class Watcher:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._number = 0  # of the list of servers in use
        self._servers: dict[str, _Server] = {}
        self._shared: dict[Endpoint, SharedClient] = {}  # of servers whose ranks are watched
        self._turn = asyncio.Lock()  # to take over a list
        self._urgent = asyncio.Event()
        self._round_done = asyncio.Event()  # set, and replaced, by the next round
        self._rounds = asyncio.create_task(self._report_all())

    async def watch(self, number: int, specs: tuple[InstanceSpec, ...], known: tuple[Member, ...] = ()) -> None:
        """These servers, and no others. number: grows with each list. known: as Fleet knew them; one that was restarted
        as well knows nothing."""
        async with self._turn:
            if number > self._number:
                await self._take_over(number, specs, known)

    async def _take_over(self, number: int, specs: tuple[InstanceSpec, ...], known: tuple[Member, ...]) -> None:
        wanted = {spec.instance_id: spec for spec in specs}
        added = {i: spec for i, spec in wanted.items() if self._spec_of(i) != spec}
        state = await self._fleet.state() if added else None
        members = {(m.instance_id, m.endpoint): m for m in (*known, *(state.members if state is not None else ()))}
        for instance_id, server in list(self._servers.items()):
            if wanted.get(instance_id) != server.watched.spec:
                await server.end()
                del self._servers[instance_id]
        for instance_id, spec in added.items():
            known_member = members.get((instance_id, spec.endpoint))
            watched = Watched(spec, self._send, known_member, self._shared_client(spec.endpoint))
            self._servers[instance_id] = _Server(watched, asyncio.create_task(watched.run()))
        for endpoint in self._shared.keys() - {spec.endpoint.server for spec in specs}:
            self._shared.pop(endpoint).close()
        self._number = number  # Fleet forgets those that are not watched now, which have to be silent by then

    async def number(self) -> int:
        """Of the list in use; 0 after a restart."""
        return self._number

    async def first_looks(self, within_s: float) -> dict[str, FirstLook]:
        """By instance, once each was looked at, or that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                for server in list(self._servers.values()):
                    await server.watched.decided.wait()
        members = [server.watched.member for server in self._servers.values()]
        return {m.instance_id: FirstLook(str(m.endpoint), m.state in SERVING, m.reason) for m in members}

    async def drain(self, instance_id: str) -> bool:
        """No gateway gives it requests from now on. False if it is not watched here."""
        return await self._do(instance_id, Watched.drain)

    async def undrain(self, instance_id: str) -> bool:
        """It is given requests again. False if it is not watched here."""
        return await self._do(instance_id, Watched.undrain)

    async def stop(self) -> None:
        self._rounds.cancel()
        for server in self._servers.values():
            await server.end()
        for client in self._shared.values():
            client.close()

    async def _do(self, instance_id: str, order: Callable[[Watched], Awaitable[None]]) -> bool:
        server = self._servers.get(instance_id)
        if server is not None:
            await order(server.watched)
        return server is not None

    def _shared_client(self, endpoint: Endpoint) -> SharedClient | None:
        if endpoint.rank is None:
            return None
        server = endpoint.server
        if server not in self._shared:
            self._shared[server] = SharedClient(server)
        return self._shared[server]

    def _spec_of(self, instance_id: str) -> InstanceSpec | None:
        server = self._servers.get(instance_id)
        return None if server is None else server.watched.spec

    # Reports to Fleet, of all servers at once.

    async def _send(self) -> None:
        """Returns after a report that began later."""
        done = self._round_done
        self._urgent.set()
        await done.wait()

    async def _report_all(self) -> None:
        while True:
            self._urgent.clear()
            done, self._round_done = self._round_done, asyncio.Event()
            await self._report()
            done.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(ROUND_S):
                    await self._urgent.wait()

    async def _report(self) -> None:
        now = asyncio.get_running_loop().time()
        reports: list[InstanceReport] = []
        beats: list[Beat] = []
        asked: list[_Server] = []
        for server in self._servers.values():
            news = server.news(now)
            if news is None:
                continue
            asked.append(server)
            if isinstance(news, Beat):
                beats.append(news)
            else:
                reports.append(news)
        if not asked:
            return
        answers = await self._fleet.report_many(tuple(reports), tuple(beats))
        for server in asked:
            instance_id = server.watched.member.instance_id
            server.hear(LOST_REPORT if answers is None else answers.get(instance_id, ALL_KNOWN))


LOST_REPORT = ReportAnswer(cache_known=False, member_known=False)


@dataclass(slots=True)
class _Server:
    """task: watches it. told: the member as Fleet knows it. told_at: when it was last told of."""

    watched: Watched
    task: asyncio.Task[None]
    told: Member | None = None
    told_at: float = 0.0

    async def end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        self.watched.close()

    def news(self, now: float) -> InstanceReport | Beat | None:
        watched = self.watched
        member, adapters = watched.member, watched.adapters.told()
        load_age_s = watched.signals.take_again() if self.told is member and not adapters.loads else None
        if load_age_s is not None:
            if load_age_s < 0.0 and now - self.told_at < HEARTBEAT_S:
                return None
            self.told_at = now
            return Beat(member.instance_id, member.incarnation, member.state, adapters.version, load_age_s)
        self.told, self.told_at = member, now
        return InstanceReport(member, watched.signals.take(), adapters)

    def hear(self, answer: ReportAnswer) -> None:
        self.watched.hear(answer)
        if not answer.member_known:
            self.told = None
