"""The connection to a server of which several ranks are watched: they share its health, and what it says."""

import asyncio
from dataclasses import dataclass

from dualmap.instances.server.server_client import Answer, ServerClient
from dualmap.scheduler.fleet.endpoint import Endpoint

SHARED_S = 0.1  # what was asked for one rank so short a while ago is the answer for another


@dataclass(frozen=True, slots=True)
class _Asked:
    """at: when, in the loop's clock, seconds."""

    answer: asyncio.Task[Answer]
    at: float


class SharedClient(ServerClient):
    """What is asked at the same time is asked once."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._asked: dict[str, _Asked] = {}  # by path

    async def get(self, path: str, timeout_s: float) -> Answer:
        now = asyncio.get_running_loop().time()
        asked = self._asked.get(path)
        if asked is None or (asked.answer.done() and now - asked.at > SHARED_S):
            asked = self._asked[path] = _Asked(asyncio.create_task(super().get(path, timeout_s)), now)
            asked.answer.add_done_callback(lambda task: task.cancelled() or task.exception())  # if nobody waits for it
        return await asyncio.shield(asked.answer)
