"""One actor per instance: starts its server or watches one by URL, and tells Fleet what becomes of it and what it says
of itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ray.util import get_node_ip_address

from dualmap.instances.actor.adapter_keeper import AdapterKeeper
from dualmap.instances.actor.instance_signals import SignalCollector
from dualmap.instances.actor.start_tries import StartTries
from dualmap.instances.server.http_call import http_get
from dualmap.instances.server.model_cards import ModelCardsError, model_cards
from dualmap.instances.server.process import ServerProcess, StartError
from dualmap.instances.server.reasons import ANOTHER_PROCESS, UNWATCHED, ended
from dualmap.instances.server.start import start_server
from dualmap.instances.server.watch import (
    ASLEEP,
    HEALTH_TIMEOUT_S,
    MODELS_PATH,
    look_at,
    scrape,
    watch_health,
    watch_metrics,
    watch_progress,
)
from dualmap.instances.spec import InstanceSpec
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import ReportAnswer
from dualmap.scheduler.fleet.signals import InstanceSignals
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters

READY_POLL_S = 0.5
HEARTBEAT_S = 1.0  # reports go out at least this often: Fleet takes silence as loss
NEWS_INTERVAL_S = 0.2  # and at most this often while there is news of its cache
MODELS_INTERVAL_S = 5.0
PORT_TRIES = 3  # a port that was free when it was chosen may be taken when the server listens, a while later
PORT_TAKEN = "address already in use"
RESTARTED = "it was restarted on request"
LOCAL_HOST = "127.0.0.1"  # where a server with a socket runs

Report = Callable[[Member, InstanceSignals, WantedAdapters], Awaitable[ReportAnswer]]


class InstanceActor:
    """report: sends the member's state, its signals and what it knows of adapters to Fleet, and returns what Fleet
    says; failing to is not an error, since the next heartbeat repeats it. node_host: the address at which others reach
    this node; None: Ray knows it."""

    def __init__(self, spec: InstanceSpec, report: Report, node_host: str | None = "127.0.0.1") -> None:
        self._spec = spec
        self._report = report
        self._host = spec.endpoint.host or node_host or _node_address()
        self._kv_events = spec.kv_events
        self._server: ServerProcess | None = None
        self._stopping = False
        self._draining = False
        self._restarting = asyncio.Event()
        self.member = Member(
            spec.instance_id,
            0,
            spec.endpoint,
            state=MemberState.STARTING,
            capacity=spec.capacity,
            pool=spec.pool,
            since=time.time(),
        )
        self.last_error = ""
        self.signals = SignalCollector(spec.instance_id)
        self._adapters = AdapterKeeper(spec.instance_id)
        self._tries = StartTries(spec.start_timeout_s)
        self._decided = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._heartbeat())]

    async def state(self) -> tuple[Member, str]:
        """The member as last reported, and why its last start or watch ended."""
        return self.member, self.last_error

    async def first_state(self) -> tuple[Member, str]:
        """The same, once it has come up or failed to for the first time."""
        await self._decided.wait()
        return self.member, self.last_error

    async def drain(self) -> None:
        """No gateway gives it requests from now on; what runs there goes on."""
        self._draining = True
        if self.member.state is MemberState.READY:
            await self._set(MemberState.DRAINING)

    async def undrain(self) -> None:
        """It is given requests again."""
        self._draining = False
        if self.member.state is MemberState.DRAINING:
            await self._set(MemberState.READY)

    async def restart_server(self) -> None:
        """Stop the server, which should have been drained, and start another; it is given requests when that is
        ready."""
        self._draining = False
        self._restarting.set()

    async def stop(self) -> None:
        """Returns when the server, if it is ours, is gone."""
        self._stopping = True
        running, heartbeat = self._tasks
        running.cancel()
        if self._server is None:
            await self._set(MemberState.LOST, UNWATCHED)
        else:
            await self._set(MemberState.STOPPING)
            await self._server.stop()
            await self._set(MemberState.STOPPED)
        heartbeat.cancel()

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._start()
                await self._send()  # Fleet answers which adapters it has to get first
                if await self._adapters.join(self.member.endpoint, self.member.adapters):
                    await self._ask_models()
                another = self.member.reason == ANOTHER_PROCESS
                state = MemberState.DRAINING if self._draining else MemberState.READY
                await self._set(state, ANOTHER_PROCESS if another else "")
                self._decided.set()
                self.last_error = await self._watch()
                after = self._tries.ended(self.last_error)
            except (StartError, OSError) as error:
                self.last_error = str(error)
                after = self._tries.failed(error.short if isinstance(error, StartError) else str(error))
            self._decided.set()
            await self._end(*after)

    async def _end(self, state: MemberState, reason: str) -> None:
        """The instance is lost, or its server did not start. state, reason: of a server of ours from now on."""
        server = self._server
        if not self._spec.command or self.last_error == ASLEEP:
            await self._set(MemberState.LOST, self.last_error)
        elif server is None or self.last_error != RESTARTED:
            await self._set(state, reason)
            if server is not None:
                await server.stop()
        else:
            await self._set(MemberState.STOPPING, RESTARTED)
            await server.stop()
            await self._set(MemberState.STARTING, RESTARTED)
            return
        await asyncio.sleep(self._tries.pause_s)

    @property
    def _model(self) -> str:
        """A name the server answers to; empty before it was asked."""
        return str(self.member.model_cards[0]["id"]) if self.member.model_cards else ""

    async def _start(self) -> None:
        """Start the server, or wait for the one at the address. Each time is a new incarnation: the cache is empty."""
        incarnation = max(
            self.member.incarnation + 1, time.time_ns() // 1_000_000
        )  # also after a restart of this actor
        self.member = replace(self.member, incarnation=incarnation)
        if self._spec.command and (self._server is None or self._server.ended):
            await self._start_server()
        else:
            await self._become_ready()

    async def _start_server(self) -> None:
        """Returns when it is ready. Raises StartError."""
        for tries_left in reversed(range(PORT_TRIES)):
            try:
                server, self._kv_events = await start_server(self._spec, self._host)
                self._server = server
                endpoint = replace(self.member.endpoint, host=server.host, port=server.port)
                self.member = replace(self.member, endpoint=endpoint, pid=server.pid)
                try:
                    async with asyncio.timeout(self._spec.start_timeout_s):
                        await self._become_ready()
                except TimeoutError:
                    await server.stop()
                    late = f"did not answer within {self._spec.start_timeout_s:g} s"
                    raise server.start_error(late) from None
                return
            except StartError as error:
                if not tries_left or PORT_TAKEN not in str(error).lower():
                    raise

    async def _become_ready(self) -> None:
        """Returns when the server answers /health and makes a token. Raises StartError when it ends before."""
        while (look := await look_at(self.member.endpoint)).state is not MemberState.READY:
            if self._server is None:
                await self._set(look.state, look.reason)
            await self._expect_running()
            await asyncio.sleep(READY_POLL_S)
        await self._expect_running()  # whoever answered, it was another
        self.member = replace(self.member, model_cards=look.cards)
        metrics = await scrape(self.member.endpoint)
        if metrics is not None:
            told = self.member.capacity
            kv_tokens = metrics.kv_tokens or told.kv_tokens
            max_adapters = metrics.max_adapters or told.max_adapters
            self.member = replace(self.member, capacity=replace(told, kv_tokens=kv_tokens, max_adapters=max_adapters))

    async def _expect_running(self) -> None:
        """Raises StartError if our server has ended."""
        if self._server is not None and self._server.ended:
            raise self._server.start_error(f"exited with code {await self._server.wait()} before it was ready")

    async def _watch(self) -> str:
        """Returns why it ended when the instance is lost."""
        self.signals.reset()
        watches: list[Coroutine[Any, Any, str]] = [
            watch_health(self.member.endpoint),
            watch_metrics(self.member.endpoint, self.signals.note_metrics),
            watch_progress(self.member.endpoint, self._model, lambda: self.signals.steps),
        ]
        if self._server is not None:
            watches += [_exit_of(self._server), self._restart_wanted()]
        tasks = [asyncio.create_task(watch) for watch in watches]
        beside = [asyncio.create_task(self._follow_models())]
        if self._kv_events is not None:
            host = self.member.endpoint.host or LOCAL_HOST
            beside.append(asyncio.create_task(self.signals.follow_kv_events(self._kv_events, host)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in (*tasks, *beside):
                task.cancel()
            await asyncio.gather(*tasks, *beside, return_exceptions=True)

    async def _follow_models(self) -> None:
        """Adapters may be loaded and unloaded at any time."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(MODELS_INTERVAL_S):
                    await self._adapters.due.wait()
            changed = await self._ask_models()
            if self._adapters.lacking(self.member.adapters):
                await self._send()  # one that is being unloaded everywhere must not be loaded again
            if await self._adapters.look_after(self.member.endpoint, self.member.adapters):
                changed |= await self._ask_models()
            if changed:
                await self._send()

    async def _ask_models(self) -> bool:
        """Whether the server has others than before."""
        body = await http_get(self.member.endpoint, MODELS_PATH, HEALTH_TIMEOUT_S)
        with suppress(ModelCardsError):
            if body is not None and _names(cards := model_cards(body)) != _names(self.member.model_cards):
                self.member = replace(self.member, model_cards=cards)
                return True
        return False

    async def _restart_wanted(self) -> str:
        await self._restarting.wait()
        self._restarting.clear()
        return RESTARTED

    async def _heartbeat(self) -> None:
        while True:
            await self._send()
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self.signals.has_news.wait()
            await asyncio.sleep(NEWS_INTERVAL_S)

    async def _set(self, state: MemberState, reason: str = "") -> None:
        """reason: why, for people."""
        before = self.member
        since = before.since if state is before.state else time.time()
        self.member = replace(before, state=state, reason=reason, since=since)
        if self.member != before:
            await self._send()

    async def _send(self) -> None:
        signals = self.signals.take()
        answer = await self._report(self.member, signals, self._adapters.told())
        self._adapters.hear(answer)
        if not answer.cache_known:
            self.signals.tell_all()


def _names(cards: tuple[dict[str, Any], ...]) -> list[tuple[str, Any]]:
    """All that counts: cards also say when they were made."""
    return [(card["id"], card.get("parent")) for card in cards]


def _node_address() -> str:
    address: str = get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


async def _exit_of(server: ServerProcess) -> str:
    return ended(await server.wait(), server.last_error())
