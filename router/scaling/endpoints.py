"""What people ask of the Autoscaler over the admin port: POST /admin/scale, /admin/drain, /admin/role, /admin/restart,
and GET /admin/scaling; and of `dualmap up`: POST /admin/restart-gateways."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import msgspec

from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.local_answers import json_response
from dualmap.router.http.openai_errors import HttpError, bad_request, conflict, error_response, unavailable
from dualmap.router.reach.reach import CallError
from dualmap.scheduler.fleet.scaler import RefusedError

METHODS = {
    "/admin/scaling": "GET",
    "/admin/scale": "POST",
    "/admin/drain": "POST",
    "/admin/role": "POST",
    "/admin/restart": "POST",
    "/admin/restart-gateways": "POST",
}
TIMEOUT_S = 15.0  # a drain calls the instance's actor in turn
NO_ROLES = (
    "this is an endpoint picker: its proxy sends each request once, so that instances here have no roles to change"
)

CallAutoscaler = Callable[..., Awaitable[Any]]


class _Scale(msgspec.Struct, forbid_unknown_fields=True):
    replicas: int | dict[str, int | None] | None  # by role, where each has a number of its own; null: by load
    pool: str | None = None  # the first one


class _Drain(msgspec.Struct, forbid_unknown_fields=True):
    instance_id: str
    undo: bool = False


class _ChangeRole(msgspec.Struct, forbid_unknown_fields=True):
    instance_id: str
    role: Literal["prefill", "decode", "both"]


class _Restart(msgspec.Struct, forbid_unknown_fields=True):
    pool: str | None = None
    cancel: bool = False


class ScalingEndpoints:
    """call: pool, name and arguments of a method that the pool's Autoscaler carries out. Raises CallError.
    pool_names: the first one is meant where none is named. pool_name_of: an instance's. restart_gateways: has them
    replaced, and says which there are; raises RefusedError. picks: for a proxy, which has no prompt computed apart."""

    def __init__(
        self,
        call: CallAutoscaler,
        pool_names: Sequence[str],
        pool_name_of: Callable[[str], str | None],
        restart_gateways: Callable[[], Sequence[str]],
        *,
        picks: bool = False,
    ) -> None:
        self._call = call
        self._pool_names = pool_names
        self._pool_name_of = pool_name_of
        self._restart_gateways = restart_gateways
        self._picks = picks

    def begin(self, request: HttpRequest, client: ClientConnection) -> None:
        """Answer over time."""
        client.answer_over_time(_Pending(self._answer(request), client, request.close))

    async def _answer(self, request: HttpRequest) -> bytes:
        answer = await self._ask(request)
        if isinstance(answer, HttpError):
            return error_response(answer, close=request.close)
        return json_response(msgspec.json.encode(answer), close=request.close)

    async def _ask(self, request: HttpRequest) -> dict[str, Any] | HttpError:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                match request.path:
                    case "/admin/scaling":
                        pools = [await self._call(name, "describe") for name in self._pool_names]
                        return {"pools": [of_role for pool in pools for of_role in pool]}
                    case "/admin/scale":
                        scale = msgspec.json.decode(request.body or b"{}", type=_Scale)
                        return await self._order(scale.pool, "scale", scale.replicas)
                    case "/admin/drain":
                        drain = msgspec.json.decode(request.body or b"{}", type=_Drain)
                        pool_name = self._pool_name_of(drain.instance_id)
                        return await self._order(pool_name, "drain", drain.instance_id, drain.undo)
                    case "/admin/role":
                        if self._picks:
                            raise RefusedError(NO_ROLES)
                        change = msgspec.json.decode(request.body or b"{}", type=_ChangeRole)
                        pool_name = self._pool_name_of(change.instance_id)
                        return await self._order(pool_name, "change_role", change.instance_id, change.role)
                    case "/admin/restart-gateways":
                        ids = self._restart_gateways()
                        return {"message": f"restarting {', '.join(ids)}", "gateways": ids}
                restart = msgspec.json.decode(request.body or b"{}", type=_Restart)
                return await self._order(restart.pool, "cancel_restart" if restart.cancel else "restart")
        except msgspec.MsgspecError as error:
            return bad_request(f"The body is not as expected: {error}.")
        except RefusedError as error:
            return conflict(str(error))
        except TimeoutError:
            return unavailable("The Autoscaler does not answer; try again.")
        except CallError as error:
            match error.cause:
                case RefusedError():
                    return conflict(str(error.cause))
                case None:
                    return unavailable("The Autoscaler does not answer; try again.")
                case _:
                    return unavailable("The Autoscaler failed; try again.")

    async def _order(self, pool_name: str | None, method: str, *arguments: Any) -> dict[str, Any] | HttpError:
        if pool_name is None:
            pool_name = self._pool_names[0]
        if pool_name not in self._pool_names:
            known = ", ".join(f"`{name}`" if name else "one without a name" for name in self._pool_names)
            return bad_request(f"There is no pool `{pool_name}`. Pools here: {known}.", "pool")
        return {"message": await self._call(pool_name, method, *arguments), "pool": pool_name}


class _Pending:
    """The answer of one client, once there is one."""

    def __init__(self, answer: Awaitable[bytes], client: ClientConnection, close: bool) -> None:
        self._task = asyncio.ensure_future(self._send(answer, client, close))

    async def _send(self, answer: Awaitable[bytes], client: ClientConnection, close: bool) -> None:
        client.answer(await answer, close=close)

    def client_left(self) -> None:
        """What was asked for is done nevertheless; nobody is told."""
        self._task.cancel()

    def client_paused(self) -> None:
        pass

    def client_resumed(self) -> None:
        pass

    def probe_client(self) -> bool:
        return False
