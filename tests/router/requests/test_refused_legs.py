"""Servers whose connector is not that of their fleet: they refuse what a leg has beside its request."""

import pytest

from dualmap.router.observe.metrics import Outcome
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import FailureCause
from tests.router.conftest import Conversation
from tests.router.requests import test_legs
from tests.router.requests.test_legs import CHAT, decode, hangs, prefill, received, tells_nothing

pd = test_legs.pd
REFUSAL = {"error": {"message": "kv_transfer_params: Field required", "param": "kv_transfer_params", "code": 400}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", ["400 Bad Request", "422 Unprocessable Entity"])
@pytest.mark.parametrize("leg", [0, 1], ids=["prefill", "decode"])
async def test_a_leg_that_is_refused_for_the_gateways_own_fields_is_its_instances_failure(
    pd, caplog, leg, status, stream
):
    async def takes_no_legs(conversation: Conversation) -> None:
        if "kv_transfer_params" in conversation.request.json:
            await conversation.send_json(REFUSAL, status)
        else:
            await decode(conversation)

    async with pd("pd", prefill, takes_no_legs, config=SchedulerConfig(max_attempts=1)) as f:
        f.instances[0].script = (takes_no_legs, prefill)[leg]
        client = await f.client()
        body = {**CHAT, "stream": stream}
        answer = await client.post("/v1/chat/completions", body)
        assert answer.status == 200
        assert b"kv_transfer_params" not in answer.body
        assert "x-dualmap-prefill-instance" not in answer.headers
        assert "kv_transfer_params" not in received(f.instances[1])[-1]
        assert [len(i.received) for i in f.instances] == [1, 1 + leg]
        metrics = f.gateway.metrics
        assert (metrics.failures[FailureCause.LEG_REFUSED], metrics.outcomes[Outcome.OK]) == (1, 1)
        assert f"i{leg}: it has refused the {('prefill', 'decode')[leg]} leg" in caplog.text
        f.check_books_are_empty()


@pytest.mark.parametrize(("told", "asked"), [(prefill, 2), (tells_nothing, 1)])
async def test_what_the_client_did_wrong_it_is_told_by_the_answer_to_what_it_has_sent(pd, told, asked):
    async def refuses(conversation: Conversation) -> None:
        whole = "kv_transfer_params" not in conversation.request.json
        error = {"message": "a bad answer" if whole else "a bad leg", "code": 400}
        await conversation.send_json({"error": error}, "400 Bad Request")

    async with pd("pd", told, refuses) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert (answer.status, answer.json["error"]["message"]) == (400, "a bad answer")
        assert [len(i.received) for i in f.instances] == [1, asked]
        metrics = f.gateway.metrics
        assert (metrics.failures[FailureCause.LEG_REFUSED], metrics.outcomes[Outcome.CLIENT_ERROR]) == (asked - 1, 1)
        f.check_books_are_empty()


async def test_a_request_whose_decode_leg_is_never_answered_runs_whole(pd):
    async def waits_for_a_prompt(conversation: Conversation) -> None:
        await (hangs if "kv_transfer_params" in conversation.request.json else decode)(conversation)

    async with pd("pd", prefill, waits_for_a_prompt, first_byte_timeout_s=0.5) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        assert [len(i.received) for i in f.instances] == [1, 2]
        assert f.gateway.metrics.failures[FailureCause.STALLED] == 1
        f.check_books_are_empty()
