"""One actor per instance: starts its server or watches one by URL, and tells Fleet what becomes of it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from instances.http_get import http_get
from instances.server_process import ServerProcess, StartError
from router.membership import Member, MemberState
from scheduler.events import InstanceCapacity

PROBE_INTERVAL_S = 0.5
PROBE_TIMEOUT_S = 2.0  # a server that takes longer to answer /health is not well
PROBES_MISSED = 3  # in a row, until an instance counts as lost; its connections show a dead one sooner
HEARTBEAT_S = 1.0  # reports go out at least this often: Fleet takes silence as loss
START_TIMEOUT_S = 30.0
STOP_GRACE_S = 3.0
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # between starts; the last one repeats


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """Either `command`, a server to start that prints `listening on http://HOST:PORT`, or the address of one to
    watch."""

    instance_id: str
    capacity: InstanceCapacity
    log_path: Path
    command: tuple[str, ...] = ()
    host: str = ""
    port: int = 0


class InstanceActor:
    """report: sends the member's state to Fleet; failing to is not an error, since the next heartbeat repeats it."""

    def __init__(self, spec: InstanceSpec, report: Callable[[Member], Awaitable[None]]) -> None:
        self._spec = spec
        self._report = report
        self._server: ServerProcess | None = None
        self._stopping = False
        self.member = Member(spec.instance_id, 0, spec.host, spec.port, MemberState.STARTING, spec.capacity)
        self.last_error = ""
        self._decided = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._heartbeat())]

    async def state(self) -> tuple[Member, str]:
        """The member as last reported, and why its last start or watch ended."""
        return self.member, self.last_error

    async def first_state(self) -> tuple[Member, str]:
        """The same, once it has come up or failed to for the first time."""
        await self._decided.wait()
        return self.member, self.last_error

    async def stop(self) -> None:
        """Returns when the server, if it is ours, is gone."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        if self._server is not None:
            await self._server.stop()
        await self._set(state=MemberState.LOST)

    async def _run(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                await self._start()
                await self._set(state=MemberState.READY)
                self._decided.set()
                failures = 0
                self.last_error = await self._watch()
            except (StartError, OSError) as error:
                self.last_error = str(error)
            self._decided.set()
            await self._set(state=MemberState.LOST)
            if self._server is not None:
                await self._server.stop()
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    async def _start(self) -> None:
        """Start the server, or wait for the one at the address. Each time is a new incarnation: the cache is empty."""
        incarnation = max(
            self.member.incarnation + 1, time.time_ns() // 1_000_000
        )  # also after a restart of this actor
        if self._spec.command:
            server = self._server = ServerProcess(self._spec.command, self._spec.log_path, STOP_GRACE_S)
            await server.start(START_TIMEOUT_S)
            self.member = replace(
                self.member, incarnation=incarnation, host=server.host, port=server.port, pid=server.pid
            )
        else:
            self.member = replace(self.member, incarnation=incarnation)
        while (models := await self._get("/v1/models")) is None or await self._get("/health") is None:
            if self._server is not None and self._server.ended:
                raise StartError(f"the server exited with code {await self._server.wait()} before it was ready")
            await asyncio.sleep(PROBE_INTERVAL_S)
        self.member = replace(self.member, model_cards=model_cards(models))

    async def _watch(self) -> str:
        """Returns why it ended when the instance is lost."""
        missed = 0
        exited = asyncio.create_task(self._server.wait()) if self._server is not None else None
        while missed < PROBES_MISSED:
            if exited is not None:
                await asyncio.wait([exited], timeout=PROBE_INTERVAL_S)
                if exited.done():
                    return f"the server exited with code {exited.result()}"
            else:
                await asyncio.sleep(PROBE_INTERVAL_S)
            missed = missed + 1 if await self._get("/health") is None else 0
        return f"/health did not answer {PROBES_MISSED} times in a row"

    async def _heartbeat(self) -> None:
        while True:
            await self._report(self.member)
            await asyncio.sleep(HEARTBEAT_S)

    async def _set(self, state: MemberState) -> None:
        self.member = replace(self.member, state=state)
        await self._report(self.member)

    async def _get(self, path: str) -> bytes | None:
        return await http_get(f"http://{self.member.host}:{self.member.port}{path}", PROBE_TIMEOUT_S)


def model_cards(body: bytes) -> tuple[dict[str, Any], ...]:
    """The entries of a GET /v1/models answer. Raises StartError if it is none."""
    try:
        cards = json.loads(body)["data"]
        return tuple({**card, "id": str(card["id"])} for card in cards)
    except (ValueError, KeyError, TypeError) as error:
        raise StartError(f"GET /v1/models answered with no list of models: {error!r}") from None
