"""Scaling over the admin port: what reaches the Autoscaler, and what people are told."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from dualmap.router.gateway.admin import AdminService
from dualmap.router.http.limits import HttpLimits
from dualmap.router.reach.reach import CallError, NoActorError
from dualmap.router.scaling.endpoints import ScalingEndpoints
from dualmap.scheduler.fleet.scaler import RefusedError
from tests.router.conftest import Client, post


class Autoscaler:
    """What the endpoints called; each call ends with `outcome`."""

    def __init__(self, outcome) -> None:
        self.calls: list[tuple] = []
        self.called, self.cancelled = asyncio.Event(), asyncio.Event()
        self._outcome = outcome

    async def call(self, *call):
        self.calls.append(call)
        self.called.set()
        if isinstance(self._outcome, asyncio.Event):
            try:
                await self._outcome.wait()
            finally:
                self.cancelled.set()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


@asynccontextmanager
async def admin_port(outcome="as you wish", token=None, scaling=True, gateways=tuple, picks=False):
    """A client of an admin port, and the Autoscaler behind it."""
    autoscaler = Autoscaler(outcome)
    pool_name_of = {"sim-0": "", "a": "coder"}.get
    endpoints = ScalingEndpoints(autoscaler.call, ("", "coder"), pool_name_of, gateways, picks=picks)
    service = AdminService(None, HttpLimits(), time.monotonic, token, endpoints if scaling else None)
    await service.start("127.0.0.1", 0)
    client = Client(*await asyncio.open_connection("127.0.0.1", service.port))
    try:
        yield client, autoscaler
    finally:
        client.leave()
        service.stop()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("path", "body", "call"),
    [
        ("/admin/scale", {"replicas": 3}, ("", "scale", 3)),
        ("/admin/scale", {"replicas": None}, ("", "scale", None)),
        ("/admin/scale", {"replicas": {"prefill": 3, "decode": None}}, ("", "scale", {"prefill": 3, "decode": None})),
        ("/admin/drain", {"instance_id": "sim-0"}, ("", "drain", "sim-0", False)),
        ("/admin/drain", {"instance_id": "sim-0", "undo": True}, ("", "drain", "sim-0", True)),
        ("/admin/drain", {"instance_id": "a"}, ("coder", "drain", "a", False)),
        ("/admin/drain", {"instance_id": "nobody"}, ("", "drain", "nobody", False)),
        ("/admin/role", {"instance_id": "a", "role": "both"}, ("coder", "change_role", "a", "both")),
        ("/admin/restart", {}, ("", "restart")),
        ("/admin/restart", {"pool": "coder"}, ("coder", "restart")),
        ("/admin/restart", {"pool": "coder", "cancel": True}, ("coder", "cancel_restart")),
    ],
)
async def test_what_is_asked_for_reaches_the_autoscaler_and_its_answer_the_client(path, body, call):
    async with admin_port() as (client, autoscaler):
        answer = await client.post(path, body)
        assert (answer.status, answer.json) == (200, {"message": "as you wish", "pool": call[0]})
        assert autoscaler.calls == [call]


async def test_the_state_of_scaling_can_be_read():
    async with admin_port([{"max_replicas": 4}]) as (client, autoscaler):
        assert (await client.get("/admin/scaling")).json == {"pools": [{"max_replicas": 4}] * 2}
        assert autoscaler.calls == [("", "describe"), ("coder", "describe")]


async def test_requests_sent_at_once_are_answered_in_order():
    async with admin_port() as (client, autoscaler):
        await client.send(post("/admin/scale", {"replicas": 3}) + post("/admin/drain", {"instance_id": "a"}))
        assert [(await client.answer()).status, (await client.answer()).status] == [200, 200]
        assert autoscaler.calls == [("", "scale", 3), ("coder", "drain", "a", False)]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/admin/scale", b"", "The body is not as expected"),
        ("/admin/scale", b"{", "The body is not as expected"),
        ("/admin/scale", {}, "missing required field `replicas`"),
        ("/admin/role", {"instance_id": "a", "role": "none"}, "Invalid enum value 'none' - at `$.role`"),
        ("/admin/scale", {"replicas": "three"}, "Expected `int | object | null`, got `str` - at `$.replicas`"),
        ("/admin/restart", {"pool": "chat"}, "There is no pool `chat`. Pools here: one without a name, `coder`."),
        ("/admin/drain", {"instance_id": "a", "undoo": True}, "unknown field `undoo`"),
    ],
)
async def test_a_bad_body_is_refused_with_what_is_wrong(path, body, said):
    async with admin_port() as (client, autoscaler):
        answer = await client.post(path, body)
        assert answer.status == 400
        assert said in answer.error["message"]
        assert autoscaler.calls == []


@pytest.mark.parametrize(
    ("outcome", "status", "said"),
    [
        (CallError("scale", RefusedError("there is no such instance")), 409, "there is no such instance"),
        (CallError("scale", KeyError("x")), 503, "The Autoscaler failed; try again."),
        (CallError("gone"), 503, "The Autoscaler does not answer; try again."),
        (NoActorError("no such actor"), 503, "The Autoscaler does not answer; try again."),
    ],
)
async def test_a_refusal_and_an_autoscaler_that_is_away_are_told_apart(outcome, status, said):
    async with admin_port(outcome) as (client, _):
        answer = await client.post("/admin/scale", {"replicas": 1})
        assert (answer.status, answer.error["message"]) == (status, said)


async def test_the_wrong_method_and_a_missing_token_are_refused():
    async with admin_port(token="secret") as (client, autoscaler):
        assert (await client.get("/admin/scale")).headers["allow"] == "POST"
        assert (await client.post("/admin/scale", {"replicas": 1})).status == 401
        allowed = await client.post("/admin/scale", {"replicas": 1}, "authorization: Bearer secret\r\n")
        assert allowed.status == 200
        assert len(autoscaler.calls) == 1


async def test_behind_a_picker_no_role_changes():
    async with admin_port(picks=True) as (client, autoscaler):
        answer = await client.post("/admin/role", {"instance_id": "a", "role": "prefill"})
        assert answer.status == 409
        assert "this is an endpoint picker" in answer.error["message"]
        assert autoscaler.calls == []


async def test_where_nothing_scales_there_is_nothing_to_ask():
    async with admin_port(scaling=False) as (client, _):
        assert (await client.post("/admin/scale", {"replicas": 1})).status == 404


async def test_a_client_that_leaves_while_it_waits_harms_nobody():
    never = asyncio.Event()
    async with admin_port(never) as (client, autoscaler):
        await client.send(post("/admin/scale", {"replicas": 1}))
        await autoscaler.called.wait()
        client.leave()
        await autoscaler.cancelled.wait()


async def test_gateways_are_replaced_and_those_that_there_are_named():
    async with admin_port(gateways=lambda: ("gateway-0", "gateway-1")) as (client, autoscaler):
        answer = await client.post("/admin/restart-gateways", {})
        assert (answer.status, answer.json["gateways"]) == (200, ["gateway-0", "gateway-1"])
        assert autoscaler.calls == []


async def test_a_gateway_that_cannot_be_replaced_says_why():
    def refuse() -> tuple[str, ...]:
        raise RefusedError("it cannot be")

    async with admin_port(gateways=refuse) as (client, _):
        answer = await client.post("/admin/restart-gateways", {})
        assert (answer.status, answer.error["message"]) == (409, "it cannot be")
