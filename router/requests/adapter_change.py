"""One change of a LoRA adapter: made on all instances of a pool, or taken back on those that made it."""

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol

import msgspec

from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import RequestRefusedError, bad_gateway, unavailable
from dualmap.router.requests.ask_instance import NO_ANSWER, InstanceAnswer, ask_instance
from dualmap.router.requests.instance_connections import InstanceConnections
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters

logger = logging.getLogger(__name__)

LOAD, UNLOAD = b"/v1/load_lora_adapter", b"/v1/unload_lora_adapter"
ASK_S = 60.0  # an instance that takes longer has failed


class AdapterWishes(Protocol):
    """See FleetClient."""

    async def begin_adapters(self, pool: str, holder: str) -> WantedAdapters | None: ...

    async def want_adapter(self, pool: str, name: str, load: bytes) -> bool: ...

    async def end_adapters(self, pool: str, holder: str) -> bool: ...


class AdapterChange:
    """Of one adapter, on all instances of a pool, while nobody else changes any there."""

    def __init__(
        self,
        connections: InstanceConnections,
        wishes: AdapterWishes,
        pool: str,
        name: str,
        http: HttpRequest,
        wanted: WantedAdapters,
    ) -> None:
        self._connections = connections
        self._wishes = wishes
        self._pool = pool
        self._name = name
        self._lines = http.forwarded
        self._body = http.body
        self._before = dict(wanted.loads).get(name, b"")  # what loads it as it was before; empty: it was not there

    async def load(self, ids: Sequence[str]) -> InstanceAnswer:
        """Raises RequestRefusedError."""
        answers = await self._ask(ids, LOAD, self._body)
        failed = [answer for answer in answers if answer.status != HTTPStatus.OK]
        if not failed and await self._wishes.want_adapter(self._pool, self._name, self._body):
            return answers[0]
        await self._put_back([a for a in answers if a.status in (HTTPStatus.OK, NO_ANSWER)])
        if not failed:
            await self._wishes.want_adapter(self._pool, self._name, self._before)  # in case only its answer was late
            raise RequestRefusedError(unavailable("The adapter cannot be kept for instances that join later."))
        return _told(failed)

    async def unload(self, ids: Sequence[str]) -> InstanceAnswer:
        """Raises RequestRefusedError."""
        if not await self._wishes.want_adapter(self._pool, self._name, b""):  # first, so that nobody loads it again
            raise RequestRefusedError(unavailable("Fleet does not answer; nothing was unloaded."))
        answers = await self._ask(ids, UNLOAD, self._body)
        failed = [a for a in answers if a.status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND)]
        taken = [a for a in answers if a.status == HTTPStatus.OK]
        if not failed:
            return (taken or answers)[0]
        if not self._before and taken:  # its server was started with it
            gone = ", ".join(answer.instance_id for answer in taken)
            raise RequestRefusedError(
                bad_gateway(
                    f"{failed[0].instance_id} did not unload the adapter (HTTP {failed[0].status}). It is unloaded on"
                    f" {gone}, where it is not known how to load it again."
                )
            )
        if self._before:
            await self._wishes.want_adapter(self._pool, self._name, self._before)
        await self._put_back([*taken, *(a for a in failed if a.status == NO_ANSWER)])
        return _told(failed)

    async def _put_back(self, answers: Sequence[InstanceAnswer]) -> None:
        """As it was before, where it may be otherwise now."""
        if not answers:
            return
        ids = [answer.instance_id for answer in answers]
        if self._before:
            again = await self._ask(ids, LOAD, _in_place(self._before))
        else:
            again = await self._ask(ids, UNLOAD, msgspec.json.encode({"lora_name": self._name}))
        undone = (HTTPStatus.OK, HTTPStatus.NOT_FOUND)
        if left := [answer.instance_id for answer in again if answer.status not in undone]:
            logger.error("the adapter %s could not be put back on %s", self._name, ", ".join(left))

    async def _ask(self, ids: Sequence[str], target: bytes, body: bytes) -> list[InstanceAnswer]:
        """All at once; the answers in the order of the ids."""
        return await asyncio.gather(*(self._ask_one(instance_id, target, body) for instance_id in ids))

    async def _ask_one(self, instance_id: str, target: bytes, body: bytes) -> InstanceAnswer:
        try:
            connections = self._connections.to(instance_id)
        except KeyError:  # it has left meanwhile
            return InstanceAnswer(instance_id)
        return await ask_instance(connections, target, self._lines, body, ASK_S)


def _in_place(load: bytes) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(load, type=dict[str, Any]) | {"load_inplace": True})


def _told(failed: Sequence[InstanceAnswer]) -> InstanceAnswer:
    """The first refusal in an instance's own words. Raises RequestRefusedError (502) where there is none."""
    for answer in failed:
        if answer.status != NO_ANSWER:
            return answer
    named = failed[0].instance_id
    raise RequestRefusedError(bad_gateway(f"{named} did not answer; the adapters are as they were on all instances."))
