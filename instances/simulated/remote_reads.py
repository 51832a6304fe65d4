"""A server reads prompts' KV from other servers: it asks for the blocks to be held, waits as long as the transfer
takes, and gives them back."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec

from dualmap.instances.server.server_client import OK_STATUS, NoAnswerError, ServerClient, get_once
from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.kv_transfer import (
    HOLD_PATH,
    QUERY_PATH,
    RELEASE_PATH,
    EngineEntry,
    LeaseCall,
    Nowhere,
    Source,
    Transfer,
)
from dualmap.instances.simulated.leases import HEARTBEAT_S
from dualmap.instances.simulated.transfer_link import TransferLink
from dualmap.scheduler.fleet.endpoint import Endpoint

CALL_TIMEOUT_S = 5.0  # as vLLM waits for a handshake
ASK_AGAIN_S = 0.02  # for a prompt that is not computed yet
LAST_CALL_TIMEOUT_S = 1.0  # of a request that is over anyway


class RemoteReads:
    """read, failed: told of a request, by its id in the engine, whose prompt is there, or will not come."""

    def __init__(
        self,
        engine: Engine,
        read: Callable[[str], None],
        failed: Callable[[str], None],
        timeout_s: float,
    ) -> None:
        """timeout_s: for a prompt that is not computed yet."""
        self._timeout_s = timeout_s
        self._engine = engine
        self._read = read
        self._failed = failed
        self._link = TransferLink(engine.profile)
        self._loop = asyncio.get_running_loop()
        self._arrivals: dict[str, asyncio.Future[float]] = {}  # when the blocks will be there, once they have room
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def expect(self, engine_id: str, source: Source | Transfer | Nowhere) -> None:
        """The request goes to the engine, which will want its prompt."""
        self._arrivals[engine_id] = self._loop.create_future()
        self._start(engine_id, self._follow(engine_id, source))

    def begin(self) -> None:
        """After a step has started: prompts for which it has found room are under way."""
        for engine_id, tokens in self._engine.take_loads():
            self._arrivals[engine_id].set_result(self._link.arrives_s(tokens, self._loop.time()))

    def forget(self, engine_id: str) -> None:
        """The request is over: its blocks are given back."""
        if task := self._tasks.get(engine_id):
            task.cancel()

    def refuse(self, source: Source | Transfer | Nowhere) -> None:
        """The request does not come to the engine: vLLM, too, gives the blocks back."""
        if not isinstance(source, Nowhere):
            name = source.remote_request_id if isinstance(source, Source) else source.transfer_id
            self._start(name, self._give_back(source))

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[name] = self._loop.create_task(work)
        task.add_done_callback(lambda _: self._ended(name))

    def _ended(self, name: str) -> None:
        del self._tasks[name]
        self._arrivals.pop(name, None)

    async def _follow(self, engine_id: str, source: Source | Transfer | Nowhere) -> None:
        if isinstance(source, Nowhere):
            await asyncio.Event().wait()  # until its client leaves
            return
        try:
            if isinstance(source, Source):
                await self._fetch(engine_id, source)
            else:
                await self._await_push(engine_id, source)
        except NoAnswerError:
            self._failed(engine_id)
        except asyncio.CancelledError:
            await self._give_back(source)
            raise
        else:
            self._read(engine_id)

    async def _fetch(self, engine_id: str, source: Source) -> None:
        """Raises NoAnswerError, also where the lease is over."""
        with closing(ServerClient(Endpoint(source.remote_host, source.remote_port))) as lender:
            call = LeaseCall(source.remote_engine_id, source.remote_request_id)
            await _ask(lender, HOLD_PATH, call)
            while not (await asyncio.wait({self._arrivals[engine_id]}, timeout=HEARTBEAT_S))[0]:
                await _ask(lender, HOLD_PATH, call)
            await asyncio.sleep(self._arrivals[engine_id].result() - self._loop.time())
            await _ask(lender, RELEASE_PATH, call)

    async def _await_push(self, engine_id: str, source: Transfer) -> None:
        """The same as MooncakeConnector does it: asked for once there is room, it comes when it is computed. Raises
        NoAnswerError, also where it does not come."""
        arrives_s = await self._arrivals[engine_id]
        with closing(ServerClient(await _worker(source))) as lender:
            call = LeaseCall(source.remote_engine_id, source.transfer_id)
            ends_s = self._loop.time() + self._timeout_s
            while not await _holds(lender, call):
                if self._loop.time() >= ends_s:
                    raise NoAnswerError("Timeout waiting for P side ready.")
                await asyncio.sleep(ASK_AGAIN_S)
            await asyncio.sleep(arrives_s - self._loop.time())
            await _ask(lender, RELEASE_PATH, call)

    async def _give_back(self, source: Source | Transfer) -> None:
        with suppress(NoAnswerError):
            if isinstance(source, Source):
                place, name = Endpoint(source.remote_host, source.remote_port), source.remote_request_id
            else:
                place, name = await _worker(source), source.transfer_id
            with closing(ServerClient(place)) as lender:
                await _ask(lender, RELEASE_PATH, LeaseCall(source.remote_engine_id, name), LAST_CALL_TIMEOUT_S)


async def _ask(lender: ServerClient, path: str, call: LeaseCall, timeout_s: float = CALL_TIMEOUT_S) -> None:
    """Raises NoAnswerError, also where the lease is over."""
    answer = await lender.post(path, msgspec.to_builtins(call), timeout_s)
    if answer.status != OK_STATUS:
        raise NoAnswerError(f"HTTP {answer.status}")


async def _holds(lender: ServerClient, call: LeaseCall) -> bool:
    """Whether the lease is there. Raises NoAnswerError."""
    return (await lender.post(HOLD_PATH, msgspec.to_builtins(call), CALL_TIMEOUT_S)).status == OK_STATUS


async def _worker(source: Transfer) -> Endpoint:
    """Where the engine is found, as the bootstrap server says. Raises NoAnswerError, also where it knows no such
    engine."""
    try:
        place = urlsplit(source.remote_bootstrap_addr)
        body = await get_once(Endpoint(place.hostname or "", place.port or 0), QUERY_PATH, CALL_TIMEOUT_S)
        engines = msgspec.json.decode(body or b"{}", type=dict[str, EngineEntry])
        found = next(e for e in engines.values() if e.engine_id == source.remote_engine_id)
        worker = urlsplit(found.worker_addr["0"]["0"])
        return Endpoint(worker.hostname or "", worker.port or 0)
    except (msgspec.MsgspecError, ValueError, KeyError, StopIteration):
        raise NoAnswerError(f"remote engine_id {source.remote_engine_id} not found from bootstrap server") from None
