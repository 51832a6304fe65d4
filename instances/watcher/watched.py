"""One server that is watched: from its first answer until it is lost, again and again."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, TypeVar

from dualmap.instances.server.metrics import MetricsReader, ServerMetrics
from dualmap.instances.server.model_cards import facts_of
from dualmap.instances.server.reasons import ANOTHER_PROCESS, BALANCED, several_engines
from dualmap.instances.server.server_client import NoAnswerError, ServerClient
from dualmap.instances.spec import InstanceSpec, KvEventSource
from dualmap.instances.watcher.adapter_keeper import AdapterKeeper
from dualmap.instances.watcher.instance_signals import SignalCollector
from dualmap.instances.watcher.looks import (
    ASLEEP,
    PROBE_TIMEOUT_S,
    KeyRefusedError,
    NotReadyError,
    ask_health,
    ask_metrics,
    ask_models,
    ask_token,
    check_rank,
    leads_elsewhere,
    lost_by,
)
from dualmap.instances.watcher.turn import pause_s, turn_of
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import SERVING, Member, MemberState, ServerEnd
from dualmap.scheduler.fleet.messages import ReportAnswer
from dualmap.scheduler.instance_capacity import InstanceCapacity

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

READY_POLL_S = 0.5
SCRAPE_INTERVAL_S = 1.0
HEALTH_INTERVAL_S = 0.5  # of a server without metrics, and of one that was not well at the last look
HEALTH_BESIDE_METRICS_S = 5.0  # a scrape that is answered says as much
HEALTH_MISSED = 3  # in a row, until an instance counts as lost; its connections show a dead one sooner
METRICS_AGAIN_S = 10.0  # a server without metrics is asked for them
MODELS_INTERVAL_S = 5.0
KEY_REFUSALS = 2  # in a row, until a ready server cannot be used
STILL_S = 10.0  # an engine that makes no step for so long while it has requests hangs, or has a very long step
HUNG = f"no token and no step of the engine within {STILL_S + PROBE_TIMEOUT_S:g} s"
LOCAL_HOST = "127.0.0.1"  # where a server with a socket runs


class Watched:
    """spec: may bear a command, whose server another starts. send: sends what is new to Fleet; returns when it has been
    heard. member: as it is to be reported. decided: set once it has come up, or was seen not to."""

    def __init__(
        self,
        spec: InstanceSpec,
        send: Callable[[], Awaitable[None]],
        known: Member | None = None,
        shared: ServerClient | None = None,
    ) -> None:
        """known: what Fleet knows of it from who watched it before: while it is the same process, it goes on. shared:
        of all ranks of its server; whoever gives it closes it."""
        self.spec = spec
        self.member = known or Member(
            spec.instance_id,
            _number(),
            spec.endpoint,
            state=MemberState.STARTING,
            capacity=spec.capacity,
            pool=spec.pool,
            since=time.time(),
        )
        if (self.member.role, self.member.revision) != (spec.role, spec.revision):
            self.member = replace(self.member, role=spec.role, revision=spec.revision)
        self.signals = SignalCollector(spec.instance_id)
        self.adapters = AdapterKeeper(spec.instance_id)
        self.decided = asyncio.Event()
        self._send = send
        self._draining = self.member.state is MemberState.DRAINING
        self._server = shared or ServerClient(spec.endpoint)
        self._is_shared = shared is not None
        self._kv_events = spec.kv_events
        self._balanced = spec.behind_balancer
        self._remark = BALANCED if spec.behind_balancer else ""  # while it serves
        self._hung = False  # its engine stood still: metrics alone do not make it ready
        self._metrics = MetricsReader(spec.endpoint.rank)
        self._has_metrics = False
        self._asked_metrics_at = 0.0
        self._goes_on = known is not None and known.state in SERVING
        self._turn = turn_of(spec)

    def reach(self, endpoint: Endpoint, pid: int, kv_events: KvEventSource | None) -> None:
        """A server was started there."""
        self._server.close()
        self._server = ServerClient(endpoint)
        self._kv_events = kv_events
        self._hung = False
        self.member = replace(self.member, endpoint=endpoint, pid=pid)

    def note_end(self, end: ServerEnd) -> None:
        """Its server, one of ours, has ended: told with what becomes of it."""
        self.member = replace(self.member, last_end=end)

    def hear(self, answer: ReportAnswer) -> None:
        """What Fleet said to a report."""
        self.adapters.hear(answer)
        if not answer.cache_known:
            self.signals.tell_all()

    def close(self) -> None:
        """It is watched no more."""
        if not self._is_shared:
            self._server.close()

    # What people and scaling want.

    async def drain(self) -> None:
        """No gateway gives it requests from now on; what runs there goes on."""
        self._draining = True
        if self.member.state is MemberState.READY:
            await self.become(MemberState.DRAINING, self._remark)

    async def undrain(self) -> None:
        """It is given requests again."""
        self._draining = False
        if self.member.state is MemberState.DRAINING:
            await self.become(MemberState.READY, self._remark)

    def forget_drain(self) -> None:
        """Its next life begins ready."""
        self._draining = False

    async def become(self, state: MemberState, reason: str = "") -> None:
        """reason: why, for people. Returns when Fleet has heard it."""
        before = self.member
        since = before.since if state is before.state else time.time()
        self.member = replace(before, state=state, reason=reason, since=since)
        if self.member != before:
            await self._send()

    # Its lives.

    async def run(self) -> None:
        """Of a server that runs on its own; until cancelled."""
        while True:
            try:
                await self._until_ready()
                why = str(await self.live())
            except Exception as error:  # no fault of ours with what one server says ends its watch
                why = f"looked at again after an error: {error!r}"
                if self.member.reason != why:
                    logger.exception("%s is %s", self.spec.instance_id, why)
                    await self.become(MemberState.LOST, why)
            if why != ANOTHER_PROCESS:
                await asyncio.sleep(READY_POLL_S)

    async def look(self) -> None:
        """Returns once, if the server can be used. Raises NotReadyError."""
        cards = await ask_models(self._server)
        await ask_health(self._server)
        metrics = await self._scrape()
        if metrics is not None and metrics.asleep:
            raise NotReadyError(MemberState.LOST, ASLEEP)
        if self.spec.probe and (metrics is None or self._hung):
            try:
                await self._ask_token(str(cards[0]["id"]))
            except NotReadyError:
                if self._hung:
                    raise NotReadyError(MemberState.LOST, HUNG) from None
                raise
        self._hung = False
        rank = self.spec.endpoint.rank
        check_rank(rank, metrics)
        metrics = metrics or ServerMetrics()
        await self._look_behind(metrics)
        if rank is None and metrics.engines > 1 and not self.spec.command and not self._remark:
            self._remark = several_engines(metrics.engines, str(self.member.endpoint))
        started_at = 0.0 if self._balanced else metrics.started_at
        before = self.member.started_at
        self._goes_on &= not (started_at and before and started_at != before)
        if self._goes_on:
            started_at = started_at or before
        told = self.spec.capacity
        kv_tokens = metrics.kv_tokens or told.kv_tokens
        max_adapters = metrics.max_adapters or told.max_adapters
        capacity = replace(told, kv_tokens=kv_tokens, max_adapters=max_adapters)
        self.member = replace(self.member, model_cards=cards, capacity=self._reliable(capacity), started_at=started_at)

    async def live(self, *ends: Callable[[], Coroutine[Any, Any, str]]) -> NotReadyError:
        """It can be used: let it be, until it is lost. Each life is a new incarnation: the cache is empty. ends: each
        returns, with the reason, when the instance is lost for another cause. Returns why it was lost."""
        self.signals.reset()
        await self._send()  # Fleet answers which adapters it has to get first
        if await self._change_adapters(self.adapters.join):
            await self._ask_models()
        if not self._goes_on:
            number = max(self.member.incarnation + 1, _number())
            self.member = replace(self.member, incarnation=number, since=time.time())
        self._goes_on = False
        await self.become(MemberState.DRAINING if self._draining else MemberState.READY, self._remark)
        self.decided.set()
        why = await self._watch(ends)
        self._remark = BALANCED if self._balanced else ""
        if not self.spec.command:
            if str(why) == ANOTHER_PROCESS:  # it is perhaps ready already
                self._remark = ANOTHER_PROCESS
            else:
                await self.become(why.state, str(why))
        return why

    async def _until_ready(self) -> None:
        missed = 0
        while True:
            try:
                await self.look()
                return
            except NotReadyError as error:
                missed += 1
                if not self._goes_on or missed >= HEALTH_MISSED:
                    await self.become(error.state, str(error))
            self.decided.set()
            await asyncio.sleep(READY_POLL_S)

    async def _watch(self, ends: tuple[Callable[[], Coroutine[Any, Any, str]], ...]) -> NotReadyError:
        """Returns why it is lost."""
        tasks = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._follow_progress()),
            asyncio.create_task(self._always(self._follow_models)),
            *(asyncio.create_task(lost_by(end())) for end in ends),
        ]
        beside = []
        if (source := self._kv_events) is not None and not self._balanced:
            host = self.member.endpoint.host or LOCAL_HOST
            beside.append(asyncio.create_task(self._always(lambda: self.signals.follow_kv_events(source, host))))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in (*tasks, *beside):
                task.cancel()
            await asyncio.gather(*tasks, *beside, return_exceptions=True)

    async def _always(self, follow: Callable[[], Awaitable[_T]]) -> _T:
        """Until it returns: no fault of ours with what the server says ends it, nor the instance's life."""
        while True:
            try:
                return await follow()
            except Exception:
                logger.exception("%s is followed again after an error", self.spec.instance_id)
            await asyncio.sleep(MODELS_INTERVAL_S)

    # What is followed while it lives.

    async def _follow(self) -> NotReadyError:
        """Health and metrics. /health alone is not enough: vLLM answers it while it sleeps, is paused, or its engine
        hangs."""
        clock = asyncio.get_running_loop().time
        missed, well_at = 0, clock() - self._turn * HEALTH_BESIDE_METRICS_S
        while True:
            often = missed or not self._has_metrics
            await asyncio.sleep(pause_s(self._turn, HEALTH_INTERVAL_S if often else SCRAPE_INTERVAL_S))
            if not missed and (self._has_metrics or clock() - self._asked_metrics_at > METRICS_AGAIN_S):
                metrics = await self._scrape()
                if metrics is not None:
                    if why := await self._note(metrics):
                        return why
                    if clock() - well_at < HEALTH_BESIDE_METRICS_S:
                        continue
            try:
                with suppress(KeyRefusedError):  # it is well; whether it can be used, its models tell
                    await ask_health(self._server)
                missed, well_at = 0, clock()
            except NotReadyError as error:
                missed += 1
                if missed == HEALTH_MISSED:
                    return error

    async def _scrape(self) -> ServerMetrics | None:
        """None where nothing was to be had, which is no loss."""
        self._asked_metrics_at = asyncio.get_running_loop().time()
        try:
            metrics = await ask_metrics(self._server, self._metrics)
        except NoAnswerError:
            return None
        self._has_metrics = metrics is not None
        return metrics

    async def _note(self, metrics: ServerMetrics) -> NotReadyError | None:
        """A sample; why the instance is lost, where it shows that."""
        if self.member.started_at and metrics.started_at not in (0.0, self.member.started_at):
            if metrics.started_at < self.member.started_at and not self.spec.command:  # it ran beside that one
                self._find_balanced()
            else:
                await self._look_behind(metrics)
            if not self._balanced:
                return NotReadyError(MemberState.LOST, ANOTHER_PROCESS)
            self.member = replace(self.member, capacity=self._reliable(self.member.capacity), started_at=0.0)
            await self.become(self.member.state, self._remark)
        if self._balanced:  # it is one of several servers that this is true of
            return None
        if metrics.asleep:
            return NotReadyError(MemberState.LOST, ASLEEP)
        self.signals.note_metrics(metrics)
        return None

    async def _look_behind(self, last: ServerMetrics) -> None:
        """Whether new connections lead to several server processes. last: what was scraped just now."""
        if self.spec.command or self._balanced or not last.started_at:
            return
        if await leads_elsewhere(self._server.endpoint, last.started_at):
            self._find_balanced()

    def _find_balanced(self) -> None:
        self._balanced = True
        self._remark = BALANCED

    def _reliable(self, capacity: InstanceCapacity) -> InstanceCapacity:
        """What can be counted on: which of several servers has a prefix in its cache is not known."""
        return replace(capacity, cache_tokens=1) if self._balanced else capacity

    async def _follow_progress(self) -> NotReadyError:
        """An engine that stands still while it has requests is asked for a token. A busy server without metrics is not:
        it might not answer in time."""
        seen = self.signals.busy_steps
        while True:
            await asyncio.sleep(STILL_S)
            if seen is not None and seen == self.signals.busy_steps and self.spec.probe:
                try:
                    await self._ask_token(str(self.member.model_cards[0]["id"]))
                except NotReadyError:
                    if self.signals.busy_steps == seen:
                        self._hung = True
                        return NotReadyError(MemberState.LOST, HUNG)
            seen = self.signals.busy_steps

    async def _ask_token(self, model: str) -> None:
        """Of its own rank, over a connection of its own: that may take its time. Raises NotReadyError."""
        with closing(ServerClient(self.member.endpoint)) as other:
            await ask_token(other, model)

    async def _follow_models(self) -> NotReadyError:
        """Adapters may be loaded and unloaded at any time. A server that runs on its own and refuses the key, which may
        just be changed, takes no requests either."""
        refusals = 0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s(self._turn, MODELS_INTERVAL_S)):
                    await self.adapters.due.wait()
            changed = False
            try:
                changed = self._take_cards(await ask_models(self._server))
                refusals = 0
            except KeyRefusedError as error:
                refusals += 1
                if refusals >= KEY_REFUSALS and not self.spec.command:
                    return error
            except NotReadyError:
                pass
            if self.adapters.lacking(self.member.adapters):
                await self._send()  # one that is being unloaded everywhere must not be loaded again
                if await self._change_adapters(self.adapters.look_after):
                    changed |= await self._ask_models()
            else:
                self.adapters.due.clear()
            if changed:
                await self._send()

    async def _change_adapters(self, change: Callable[[ServerClient, Collection[str]], Awaitable[bool]]) -> bool:
        """Over a connection of its own: that takes its time. Adapters are those of a server: another of its ranks may
        have changed them."""
        with closing(ServerClient(self._server.endpoint)) as other:
            async with self._server.changing:
                if self._is_shared:
                    with suppress(NotReadyError):
                        self._take_cards(await ask_models(other))
                return await change(other, self.member.adapters)

    async def _ask_models(self) -> bool:
        """Whether the server has others than before."""
        with suppress(NotReadyError):
            return self._take_cards(await ask_models(self._server))
        return False

    def _take_cards(self, cards: tuple[dict[str, Any], ...]) -> bool:
        """Whether they are others than before."""
        if facts_of(cards) == facts_of(self.member.model_cards):
            return False
        self.member = replace(self.member, model_cards=cards)
        return True


def _number() -> int:
    """Of an incarnation: above those of who watched before."""
    return time.time_ns() // 1_000_000
