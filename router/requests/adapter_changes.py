"""LoRA adapters that are loaded and unloaded while servers run: on every instance of a pool or on none. Fleet keeps
what was loaded, for the instances that join later."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from dualmap.router.access.access import Grant
from dualmap.router.apis.model_list import ModelList
from dualmap.router.http.answer_head import status_line
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import (
    RequestRefusedError,
    bad_request,
    conflict,
    error_response,
    instance_key_refused,
    missing_model,
    not_admin,
    not_here,
    unavailable,
    unknown_model,
)
from dualmap.router.requests.adapter_change import LOAD, AdapterChange, AdapterWishes
from dualmap.router.requests.ask_instance import InstanceAnswer
from dualmap.router.requests.instance_connections import InstanceConnections
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters

logger = logging.getLogger(__name__)

TURN_S = 60.0  # changes of a pool are made one after the other
TURN_POLL_S = 0.2
DIFFERENT_MODELS = (
    "Instances of the pool serve different models: change adapters at each server, or give each model its own pool."
)
SHOWN_S = 5.0  # instances' lists of models are read again within about a second
MAX_PENDING = 16
MAX_BODY_BYTES = 64 * 1024
ELSEWHERE = "Adapters are loaded on all instances where `dualmap up` serves; here, ask each of them itself."


class _Body(msgspec.Struct):
    """model: of the pool, where there are several."""

    lora_name: str
    lora_path: str = ""
    model: str = ""


class AdapterChanges:
    """wishes: Fleet; None where there is none, and nothing can be changed. models: as of the membership in use."""

    def __init__(
        self, connections: InstanceConnections, models: Callable[[], ModelList], pools: Sequence[str], gateway_id: str
    ) -> None:
        self.wishes: AdapterWishes | None = None
        self._connections = connections
        self._models = models
        self._pools = pools
        self._gateway_id = gateway_id
        self._count = 0
        self._members: tuple[Member, ...] = ()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def apply_membership(self, membership: Membership) -> None:
        self._members = membership.members
        self._changed.set()
        self._changed = asyncio.Event()

    def begin(self, http: HttpRequest, grant: Grant | None) -> "asyncio.Task[InstanceAnswer]":
        """Make a change, which is made to its end whoever waits for it: the answer of one instance for all of them.
        The task raises RequestRefusedError."""
        task = asyncio.get_running_loop().create_task(self._change(http, grant))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self) -> None:
        """Wait for the changes under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _change(self, http: HttpRequest, grant: Grant | None) -> InstanceAnswer:
        """Raises RequestRefusedError."""
        if grant is not None and not grant.key.admin:
            raise RequestRefusedError(not_admin())
        wishes = self.wishes
        if wishes is None:
            raise RequestRefusedError(not_here(ELSEWHERE))
        if len(self._tasks) > MAX_PENDING:
            raise RequestRefusedError(unavailable("Too many changes of adapters are under way."))
        loads = http.path.rstrip("/").encode() == LOAD
        body = _read(http.body, loads)
        pool = self._pool_of(body, loads)
        if pool in self._models().mixed_pools:
            raise RequestRefusedError(conflict(DIFFERENT_MODELS))
        self._count += 1
        holder = f"{self._gateway_id}-{self._count}"
        wanted = await _turn(wishes, pool, holder)
        try:
            change = AdapterChange(self._connections, wishes, pool, body.lora_name, http, wanted)
            ids = self._ids(pool, *((MemberState.READY,) if loads else (MemberState.READY, MemberState.DRAINING)))
            our_key = grant is not None or any(self._connections.to(i).head.brings_key for i in ids)
            answer = await (change.load(ids) if loads else change.unload(ids))
        finally:
            await wishes.end_adapters(pool, holder)
        if answer.status == HTTPStatus.UNAUTHORIZED and our_key:
            raise RequestRefusedError(instance_key_refused())
        if answer.status == HTTPStatus.OK:
            await self._until_shown(pool, body.lora_name, loads)
        return answer

    def _pool_of(self, body: _Body, loads: bool) -> str:
        """Raises RequestRefusedError (400, 404, 409)."""
        if len(self._pools) == 1:
            return self._pools[0]
        model = body.model or ("" if loads else body.lora_name)
        if not model:
            raise RequestRefusedError(missing_model())
        pool = self._models().pool_of(model)
        if pool is None:
            raise RequestRefusedError(unknown_model(model))
        if loads and self._models().pool_of(body.lora_name) not in (None, pool):
            raise RequestRefusedError(conflict(f"The model `{body.lora_name}` is another pool's."))
        return pool

    def _ids(self, pool: str, *states: MemberState) -> list[str]:
        """One for each server: its ranks have the same adapters. Raises RequestRefusedError (503)."""
        members = [member for member in self._members if member.pool == pool and member.state in states]
        if not members:
            raise RequestRefusedError(unavailable("No instance is ready."))
        return list({member.endpoint.server: member.instance_id for member in members}.values())

    async def _until_shown(self, pool: str, name: str, there: bool) -> None:
        """Who was answered may ask for the model at once. An instance that does not show it after a while is used for
        others."""
        try:
            async with asyncio.timeout(SHOWN_S):
                while any(
                    (name in member.adapters) is not there
                    for member in self._members
                    if member.pool == pool and member.state is MemberState.READY
                ):
                    await self._changed.wait()
        except TimeoutError:
            logger.warning("not all instances show yet that the adapter %s was changed", name)


async def _turn(wishes: AdapterWishes, pool: str, holder: str) -> WantedAdapters:
    """What is wanted, once nobody else changes it. Raises RequestRefusedError (503)."""
    try:
        async with asyncio.timeout(TURN_S):
            while True:
                wanted = await wishes.begin_adapters(pool, holder)
                if wanted is not None:
                    return wanted
                await asyncio.sleep(TURN_POLL_S)
    except TimeoutError:
        await wishes.end_adapters(pool, holder)
        message = "Another change of adapters is not done yet, or Fleet does not answer; nothing was changed."
        raise RequestRefusedError(unavailable(message)) from None


def _read(raw: bytes, loads: bool) -> _Body:
    """Raises RequestRefusedError (400)."""
    if len(raw) > MAX_BODY_BYTES:
        raise RequestRefusedError(bad_request(f"The body is longer than {MAX_BODY_BYTES} bytes."))
    try:
        body = msgspec.json.decode(raw, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRefusedError(bad_request(f"The body is not as expected: {error}.")) from None
    for field in ("lora_name", "lora_path") if loads else ("lora_name",):
        if not getattr(body, field):
            raise RequestRefusedError(bad_request(f"`{field}` is missing.", field))
    return body


class PendingChange:
    """See Answering: who asked for a change, until it is made."""

    def __init__(self, change: "asyncio.Task[InstanceAnswer]", client: ClientConnection, http: HttpRequest) -> None:
        self._client: ClientConnection | None = client
        self._http = http
        change.add_done_callback(self._answer)

    def _answer(self, change: "asyncio.Task[InstanceAnswer]") -> None:
        if self._client is None or change.cancelled():
            return
        http = self._http
        try:
            response = _response(change.result(), http)
        except RequestRefusedError as refusal:
            error, request_id = refusal.error, http.client_request_id
            response = error_response(error, request_id=request_id, close=http.close, shape=http.error_shape)
        except Exception:  # whatever it was, somebody waits
            logger.exception("a change of adapters failed")
            response = error_response(unavailable("The change failed."), close=http.close, shape=http.error_shape)
        self._client.answer(response, close=http.close)

    def client_left(self) -> None:
        """The change is made nevertheless."""
        self._client = None

    def client_paused(self) -> None:
        """All of the answer is written at once."""

    def client_resumed(self) -> None:
        pass

    def probe_client(self) -> bool:
        return True  # it takes a minute or two at the most


def _response(answer: InstanceAnswer, http: HttpRequest) -> bytes:
    lines = b"".join(answer.lines) + b"x-dualmap-instance: %b\r\n" % answer.instance_id.encode()
    if http.client_request_id:
        lines += b"x-request-id: %b\r\n" % http.client_request_id
    if http.close:
        lines += b"connection: close\r\n"
    head = status_line(answer.status)
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, lines, len(answer.body), answer.body)
