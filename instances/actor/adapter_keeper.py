"""The LoRA adapters that one instance shall have, since they were loaded on all of its pool: it gets those it lacks."""

import asyncio
import json
import logging
from collections.abc import Collection

from dualmap.instances.server.http_call import http_post
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.messages import ReportAnswer
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters

logger = logging.getLogger(__name__)

OK_STATUS = 200
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

    async def join(self, endpoint: Endpoint, there: Collection[str]) -> bool:
        """Before the server is used. there: adapters it has. Whether it has others now."""
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                changed = await self._unload(endpoint, there)
                return await self.look_after(endpoint, there) or changed
        except TimeoutError:
            logger.warning("%s is used without all of its adapters, which take too long to load", self._instance_id)
            self.due.set()
            return True

    async def look_after(self, endpoint: Endpoint, there: Collection[str]) -> bool:
        """Load what the server lacks. Whether it has others now. What fails is tried again at the next look."""
        self.due.clear()
        changed = False
        for name, load in self.lacking(there):
            status, _ = await http_post(endpoint, "/v1/load_lora_adapter", json.loads(load), LOAD_TIMEOUT_S)
            if status == OK_STATUS:
                changed = True
                self._failed.discard(name)
            elif name not in self._failed:
                self._failed.add(name)
                logger.warning("%s does not load the adapter %s: HTTP %d", self._instance_id, name, status)
        return changed

    async def _unload(self, endpoint: Endpoint, there: Collection[str]) -> bool:
        """What was unloaded everywhere while the server was not reached. Only of one that joins: nobody changes the
        adapters of that meanwhile."""
        changed = False
        for name, load in self._wanted.loads:
            if not load and name in there:
                body = {"lora_name": name}
                status, _ = await http_post(endpoint, "/v1/unload_lora_adapter", body, LOAD_TIMEOUT_S)
                changed |= status == OK_STATUS
        return changed
