"""Requests in two legs by vLLM's MooncakeConnector: what is asked of bootstrap servers, and when."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from dualmap.router.gateway.pool import Pool
from dualmap.router.legs.mooncake import Mooncake
from dualmap.router.observe.metrics import Outcome, Told
from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.role import Role
from tests.router.conftest import Conversation, Instance
from tests.router.requests.test_legs import CARDS, CHAT, LONG, ROLES, decode, usage

RESPONSE: dict[str, Any] = {"model": "tiny", "input": LONG, "max_output_tokens": 7}


class Bootstrap(Instance):
    """engine_ids: by rank."""

    def __init__(self, *engine_ids: str) -> None:
        super().__init__(self._answer)
        self.engine_ids = engine_ids

    async def _answer(self, conversation: Conversation) -> None:
        assert conversation.request.line == "GET /query HTTP/1.1"
        engines = {str(n): {"engine_id": name, "worker_addr": {}} for n, name in enumerate(self.engine_ids)}
        await conversation.send_json(engines)


def ends(**end: Any):
    """As vLLM answers a prefill leg, which says nothing of the transfer."""

    async def script(conversation: Conversation) -> None:
        await conversation.send_json({"usage": usage(64), "kv_transfer_params": None} | end)

    return script


prefill = ends(choices=[{"message": {"content": "x"}, "finish_reason": "length"}])


@pytest.fixture
def moon(fleet):
    """roles: a letter for each instance. bootstraps: of those that prefill."""

    @asynccontextmanager
    async def make(roles: str, bootstraps: Sequence[Bootstrap], *scripts, ranks: Sequence[int | None] = (), **more):
        for bootstrap in bootstraps:
            await bootstrap.start()
        async with fleet(*scripts, cards=CARDS, **more) as f:
            core = next(iter(f.gateway.pools.values())).core
            f.gateway.admission._connectors = {core: Mooncake()}
            ports = [bootstrap.port for bootstrap in bootstraps]
            members = []
            for i, role in enumerate(roles):
                rank = ranks[i] if ranks else None
                endpoint = replace(f.instances[i].endpoint, bootstrap_port=ports[i] if i < len(ports) else 0, rank=rank)
                members.append(f.member(i, role=ROLES[role], model_cards=CARDS, endpoint=endpoint))
            f.apply(*members)
            yield f
        for bootstrap in bootstraps:
            bootstrap.stop()

    return make


def chat(number: int) -> dict[str, Any]:
    """One that no server has in its cache."""
    return CHAT | {"messages": [{"role": "user", "content": f"{number} {LONG}"}]}


def sent(instance: Instance) -> list[dict[str, Any]]:
    return [request.json for request in instance.received]


def test_a_pool_has_a_connector_of_its_own():
    assert isinstance(Pool("", Scheduler(SchedulerConfig()), None, Mooncake()).connector, Mooncake)


async def test_both_legs_name_the_transfer_and_the_decode_leg_the_engine(moon):
    bootstrap = Bootstrap("engine-1")
    async with moon("pd", [bootstrap], prefill, decode) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT, "x-request-id: mine\r\n")
        assert answer.json["usage"] == usage(64)
        (first,), (second,) = map(sent, f.instances)
        transfer_id = first["kv_transfer_params"].pop("transfer_id")
        assert first["kv_transfer_params"] == {"do_remote_decode": True, "do_remote_prefill": False}
        assert (first["max_tokens"], second["max_tokens"]) == (1, 7)
        assert second["kv_transfer_params"] == {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "transfer_id": transfer_id,
            "remote_bootstrap_addr": f"http://127.0.0.1:{bootstrap.port}",
            "remote_engine_id": "engine-1",
            "remote_prefill_cached_tokens": 64,
        }
        assert answer.headers["x-dualmap-prefill-instance"] == "i0"
        assert f.gateway.metrics.handoffs == {Told.WHERE: 1, Told.NOTHING: 0}
        f.check_books_are_empty()
        questions = len(bootstrap.received)
        await client.post("/v1/chat/completions", chat(2))
        assert sent(f.instances[0])[1]["kv_transfer_params"]["transfer_id"] != transfer_id
        assert len(bootstrap.received) == questions, "the connection is the same, and so the process"


@pytest.mark.parametrize(
    ("path", "body", "end", "told"),
    [
        ("/v1/messages", CHAT, {"stop_reason": "max_tokens"}, Told.WHERE),
        ("/v1/messages", CHAT, {"stop_reason": "end_turn"}, Told.NOTHING),
        ("/v1/responses", RESPONSE, {"incomplete_details": {"reason": "max_output_tokens"}}, Told.WHERE),
        ("/v1/responses", RESPONSE, {"incomplete_details": None}, Told.NOTHING),
        ("/v1/completions", {"model": "tiny", "prompt": LONG}, {"choices": [{"finish_reason": "length"}]}, Told.WHERE),
        ("/v1/completions", {"model": "tiny", "prompt": LONG}, {"choices": [{"finish_reason": "stop"}]}, Told.NOTHING),
        ("/v1/completions", {"model": "tiny", "prompt": LONG}, {"choices": 5}, Told.NOTHING),
    ],
)
async def test_a_prompt_is_kept_where_the_answer_ended_by_its_length_alone(moon, path, body, end, told):
    async with moon("pd", [Bootstrap("engine-1")], ends(**end), decode) as f:
        client = await f.client()
        assert (await client.post(path, body)).status == 200
        assert f.gateway.metrics.handoffs[told] == 1
        assert ("kv_transfer_params" in sent(f.instances[1])[0]) is (told is Told.WHERE)
        f.check_books_are_empty()


async def test_the_engine_is_asked_for_anew_where_the_connection_is_a_new_one(moon):
    bootstrap = Bootstrap("engine-1")
    async with moon("pd", [bootstrap], prefill, decode) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", CHAT)
        prefill_instance = f.instances[0]
        port = prefill_instance.port
        prefill_instance.stop()
        await f.until(lambda: not f.gateway.connections.to("i0")._idle)
        await prefill_instance.start(port)
        bootstrap.engine_ids = ("engine-2",)
        await client.post("/v1/chat/completions", chat(2))
        named = [body["kv_transfer_params"]["remote_engine_id"] for body in sent(f.instances[1])]
        assert named == ["engine-1", "engine-2"]


@pytest.mark.parametrize("engine_ids", [(), ("engine-1", "engine-2")], ids=["none", "several"])
async def test_an_instance_whose_engine_is_not_told_computes_nothing(moon, caplog, engine_ids):
    async with moon("pd", [Bootstrap(*engine_ids)], prefill, decode) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).json["usage"] == usage(1599)
        assert (sent(f.instances[0]), sent(f.instances[1])) == ([], [CHAT])
        assert f.gateway.metrics.failures[FailureCause.CONNECT] == 1
        assert "bootstrap server" in caplog.text
        f.check_books_are_empty()


async def test_where_nobody_listens_for_the_question_another_instance_computes_the_prompt(moon, caplog):
    silent, other = Bootstrap("engine-1"), Bootstrap("engine-2")
    async with moon("ppd", [silent, other], prefill, prefill, decode) as f:
        silent.stop()
        client = await f.client()
        for number in range(4):
            answer = await client.post("/v1/chat/completions", chat(number))
            assert answer.headers["x-dualmap-prefill-instance"] == "i1"
        assert not f.instances[0].received
        assert f.gateway.metrics.handoffs == {Told.WHERE: 4, Told.NOTHING: 0}


async def test_ranks_have_engines_of_their_own(moon):
    bootstrap = Bootstrap("engine-0", "engine-1")
    async with moon("pd", [bootstrap], prefill, decode, ranks=(1, None)) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", CHAT)
        assert f.instances[0].received[0].headers["x-data-parallel-rank"] == "1"
        assert sent(f.instances[1])[0]["kv_transfer_params"]["remote_engine_id"] == "engine-1"
        await client.post("/v1/responses", RESPONSE)
        assert len(f.instances[0].received) == 1, "its server would choose a rank itself"


async def test_a_client_that_leaves_while_the_bootstrap_server_is_asked_ends_the_leg(moon):
    async def waits(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    bootstrap = Bootstrap("engine-1")
    bootstrap.script = waits
    async with moon("pd", [bootstrap], prefill, decode) as f:
        client = await f.client()
        asked = asyncio.create_task(client.post("/v1/chat/completions", CHAT))
        await f.until(lambda: bool(bootstrap.received))
        client.leave()
        await f.until(lambda: not f.gateway.driver.exchanges)
        asked.cancel()
        assert f.gateway.metrics.outcomes[Outcome.CANCELLED] == 1
        assert not f.instances[0].received
        f.check_books_are_empty()


async def test_an_instance_that_answers_what_it_has_computed_reads_it_too_or_would_keep_it(moon):
    async with moon("bp", [Bootstrap("engine-0"), Bootstrap("engine-1")], decode, prefill) as f:
        f.instances[0].script = lambda c: (prefill if c.request.json["max_tokens"] == 1 else decode)(c)
        client = await f.client()
        for number in range(8):  # some are computed by the one, some by the other
            answer = await client.post("/v1/chat/completions", chat(number))
            computed_by = answer.headers["x-dualmap-prefill-instance"]
            params = sent(f.instances[0])[-1]["kv_transfer_params"]
            assert params["remote_engine_id"] == f"engine-{computed_by[1:]}"


async def test_who_reads_from_an_instance_that_is_lost_begins_again(moon):
    waiting = asyncio.Event()

    async def waits_once(conversation: Conversation) -> None:
        if waiting.is_set():
            await decode(conversation)
        else:
            waiting.set()
            await conversation.closed_by_gateway()

    async with moon("pd", [Bootstrap("engine-1")], prefill, waits_once) as f:
        client = await f.client()
        asked = asyncio.create_task(client.post("/v1/chat/completions", CHAT))
        await waiting.wait()
        f.apply(f.member(1, role=Role.DECODE, model_cards=CARDS))
        answer = await asked
        assert answer.status == 200
        assert sent(f.instances[1])[1] == CHAT, "nobody computes prompts for others any more"
        f.check_books_are_empty()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_not_streamed_goes_on_where_its_prompt_was_read_long_ago(moon, stream):
    lost = asyncio.Event()

    async def answers_late(conversation: Conversation) -> None:
        await lost.wait()
        await decode(conversation)

    config = SchedulerConfig(kv_lease_s=0.01)
    async with moon("pd", [Bootstrap("engine-1")], prefill, answers_late, config=config) as f:
        client = await f.client()
        asked = asyncio.create_task(client.post("/v1/chat/completions", CHAT | {"stream": stream}))
        await f.until(lambda: bool(f.instances[1].received))
        (attempt,) = f.gateway.scheduler.attempts.values()
        if not stream:
            await f.until(lambda: attempt.state is AttemptState.UNSEEN)
        await f.until(lambda: time.monotonic() > attempt.dispatched_at + config.kv_lease_s)
        f.apply(f.member(1, role=Role.DECODE, model_cards=CARDS))
        lost.set()
        assert (await asked).status == 200
        assert len(sent(f.instances[1])) == 1 + stream, "no first token of a stream means that it still reads"
        f.check_books_are_empty()
