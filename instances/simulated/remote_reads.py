"""A server reads prompts' KV from other servers: it asks for the blocks to be held, waits as long as the transfer
takes, and gives them back."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from typing import Any

import msgspec

from dualmap.instances.server.server_client import OK_STATUS, NoAnswerError, ServerClient
from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.kv_transfer import HOLD_PATH, RELEASE_PATH, LeaseCall, Source
from dualmap.instances.simulated.leases import HEARTBEAT_S
from dualmap.instances.simulated.transfer_link import TransferLink
from dualmap.scheduler.fleet.endpoint import Endpoint

CALL_TIMEOUT_S = 5.0  # as vLLM waits for a handshake
LAST_CALL_TIMEOUT_S = 1.0  # of a request that is over anyway


class RemoteReads:
    """read, failed: told of a request, by its id in the engine, whose prompt is there, or will not come."""

    def __init__(self, engine: Engine, read: Callable[[str], None], failed: Callable[[str], None]) -> None:
        self._engine = engine
        self._read = read
        self._failed = failed
        self._link = TransferLink(engine.profile)
        self._loop = asyncio.get_running_loop()
        self._arrivals: dict[str, asyncio.Future[float]] = {}  # when the blocks will be there, once they have room
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def expect(self, engine_id: str, source: Source) -> None:
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

    def refuse(self, source: Source) -> None:
        """The request does not come to the engine: vLLM, too, gives the blocks back."""
        self._start(source.remote_request_id, self._give_back(source))

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[name] = self._loop.create_task(work)
        task.add_done_callback(lambda _: self._ended(name))

    def _ended(self, name: str) -> None:
        del self._tasks[name]
        self._arrivals.pop(name, None)

    async def _follow(self, engine_id: str, source: Source) -> None:
        with closing(ServerClient(Endpoint(source.remote_host, source.remote_port))) as lender:
            try:
                await _ask(lender, HOLD_PATH, source)
                while not (await asyncio.wait({self._arrivals[engine_id]}, timeout=HEARTBEAT_S))[0]:
                    await _ask(lender, HOLD_PATH, source)
                await asyncio.sleep(self._arrivals[engine_id].result() - self._loop.time())
                await _ask(lender, RELEASE_PATH, source)
            except NoAnswerError:
                self._failed(engine_id)
            except asyncio.CancelledError:
                await self._give_back(source)
                raise
            else:
                self._read(engine_id)

    async def _give_back(self, source: Source) -> None:
        with closing(ServerClient(Endpoint(source.remote_host, source.remote_port))) as lender, suppress(NoAnswerError):
            await _ask(lender, RELEASE_PATH, source, LAST_CALL_TIMEOUT_S)


async def _ask(lender: ServerClient, path: str, source: Source, timeout_s: float = CALL_TIMEOUT_S) -> None:
    """Raises NoAnswerError, also where the lease is over."""
    call = LeaseCall(source.remote_engine_id, source.remote_request_id)
    answer = await lender.post(path, msgspec.to_builtins(call), timeout_s)
    if answer.status != OK_STATUS:
        raise NoAnswerError(f"HTTP {answer.status}")
