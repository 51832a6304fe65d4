"""The LoRA adapters that one instance shall have, since they were loaded on all of its pool: it gets those it lacks."""

import asyncio
import json
import logging
from collections.abc import Collection
from typing import Any

from dualmap.instances.server.server_client import OK_STATUS, NoAnswerError, ServerClient
from dualmap.scheduler.fleet.messages import ReportAnswer
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters

logger = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 60.0
JOIN_TIMEOUT_S = 120.0  # an instance that joins is used after that with what it has


class AdapterKeeper:
    """due: set while there is something to look after."""

    def __init__(self, instance_id: str) -> None:
        self.due = asyncio.Event()
        self._instance_id = instance_id
        self._wanted = WantedAdapters()
        self._tells_all = False
        self._failed: set[str] = set()  # adapters that the server does not load, as said in the log

    def told(self) -> WantedAdapters:
        """What goes with the next report: the version known, and all of it where Fleet asked for that."""
        return self._wanted if self._tells_all else WantedAdapters(self._wanted.version)

    def hear(self, answer: ReportAnswer) -> None:
        self._tells_all = answer.asks_adapters
        if answer.adapters is not None:
            self._wanted = answer.adapters
            self._failed.clear()
            self.due.set()

    def lacking(self, there: Collection[str]) -> list[tuple[str, bytes]]:
        """Adapters that a server with these ones shall have besides, and the requests that load them."""
        return [(name, load) for name, load in self._wanted.loads if load and name not in there]

    async def join(self, server: ServerClient, there: Collection[str]) -> bool:
        """Before the server is used. there: adapters it has. Whether it has others now."""
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                changed = await self._unload(server, there)
                return await self.look_after(server, there) or changed
        except TimeoutError:
            logger.warning("%s is used without all of its adapters, which take too long to load", self._instance_id)
            self.due.set()
            return True

    async def look_after(self, server: ServerClient, there: Collection[str]) -> bool:
        """Load what the server lacks. Whether it has others now. What fails is tried again at the next look."""
        self.due.clear()
        changed = False
        for name, load in self.lacking(there):
            refused = await _refusal(server, "/v1/load_lora_adapter", json.loads(load))
            if not refused:
                changed = True
                self._failed.discard(name)
            elif name not in self._failed:
                self._failed.add(name)
                logger.warning("%s does not load the adapter %s: %s", self._instance_id, name, refused)
        return changed

    async def _unload(self, server: ServerClient, there: Collection[str]) -> bool:
        """What was unloaded everywhere while the server was not reached. Only of one that joins: nobody changes the
        adapters of that meanwhile."""
        changed = False
        for name, load in self._wanted.loads:
            if not load and name in there:
                changed |= not await _refusal(server, "/v1/unload_lora_adapter", {"lora_name": name})
        return changed


async def _refusal(server: ServerClient, path: str, body: dict[str, Any]) -> str:
    """Why the server does not do it; empty where it did."""
    try:
        answer = await server.post(path, body, LOAD_TIMEOUT_S)
    except NoAnswerError as error:
        return str(error)
    return "" if answer.status == OK_STATUS else f"HTTP {answer.status}"
