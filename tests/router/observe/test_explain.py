"""Why a request went where it went: the gateway remembers, and the command tells."""

import pytest

from dualmap.router.cli.explain import explained
from dualmap.scheduler.events import BlocksRemoved, BlocksStored
from tests.router.conftest import CHAT, Conversation, answer_hello

LONG_CHAT = CHAT | {"messages": [{"role": "user", "content": "All work and no play. " * 400}]}
TOKEN = "authorization: Bearer secret\r\n"


async def decisions_of(f, request_id: str) -> list[dict]:
    client = await f.client(f.admin_port)
    return (await client.get(f"/admin/decisions?request_id={request_id}", TOKEN)).json["decisions"]


async def test_a_request_is_found_by_either_id_with_what_was_compared(fleet):
    async with fleet(answer_hello, answer_hello) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT, "x-request-id: mine\r\nx-dualmap-tenant: me\r\n")
        (decision,) = await decisions_of(f, "mine")
        assert decision["instance_id"] == answer.headers["x-dualmap-instance"]
        assert (decision["model"], decision["tenant"], decision["attempt"]) == ("tiny", "me", 1)
        assert decision["instance_id"] in decision["candidates"]
        assert {one["instance_id"] for one in decision["considered"]} == {"i0", "i1"}
        assert decision["reason"] == "balanced"
        told = explained(decision)
        assert "mine: tiny" in told
        assert f"attempt 1 to {decision['instance_id']}" in told
        assert "\ndispatched after " in told
        assert told.partition("when it was placed:")[0].splitlines()[-2].endswith(" s: finished")
        assert "none held more of the prompt than another" in told
        generated = await client.post("/v1/chat/completions", CHAT)
        assert len(await decisions_of(f, generated.headers["x-request-id"])) == 1


async def test_the_pace_of_tokens_is_told_where_it_is_known_and_wanted(fleet):
    async with fleet(answer_hello) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", CHAT, "x-request-id: before\r\n")
        f.gateway.scheduler.books.pace_of(()).tokens.observe(gap_s=0.03, load=1000, tokens=2000)
        await client.post("/v1/chat/completions", CHAT, "x-request-id: after\r\nx-dualmap-tpot-slo-ms: 50\r\n")
        (before,), (after,) = [await decisions_of(f, request_id) for request_id in ("before", "after")]
        assert (before["tpot_slo_s"], after["tpot_slo_s"]) == (0.0, 0.05)
        assert [one["tpot_s"] for one in after["considered"]] == [pytest.approx(0.03)]
        assert "objective for each output token: 50 ms" in explained(after)
        assert "30 ms      50 ms" in explained(after).splitlines()[-1]
        assert " ms" not in explained(before)
        assert f.gateway.status()["members"][0]["tpot_s"] == pytest.approx(0.03)


async def test_what_of_a_prompt_lies_in_a_slower_tier_is_told(fleet):
    async with fleet(answer_hello) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", LONG_CHAT, "x-request-id: before\r\n")
        (attempt,) = f.gateway.scheduler.books.ended
        blocks = attempt.request.blocks
        assert len(blocks) > 2
        f.gateway.scheduler.handle(BlocksRemoved("i0", blocks[1:]), 0.0)
        f.gateway.scheduler.handle(BlocksStored("i0", blocks[1:2], "cpu"), 0.0)
        await client.post("/v1/chat/completions", LONG_CHAT, "x-request-id: after\r\n")
        (before,), (after,) = [await decisions_of(f, request_id) for request_id in ("before", "after")]
        assert (before["in_tiers"], list(after["in_tiers"])) == ({}, ["cpu"])
        known, size = after["cached_tokens"], after["in_tiers"]["cpu"]
        assert 0 < size < known
        cached = f"{known:,} of {after['prompt_tokens']:,} tokens believed to be cached, {size:,} of them in cpu"
        assert cached in explained(after)
        assert f"{known} ({size} cpu)" in explained(after)
        assert " in cpu" not in explained(before)
        metrics = f.gateway.metrics.scrape().decode()
        assert 'dualmap_believed_loaded_tokens_total{tier="cpu"}' + f" {size}.0" in metrics
        status = await (await f.client(f.admin_port)).get("/admin/status", TOKEN)
        assert status.json["members"][0]["load_shares"]["cpu"] == pytest.approx(0.03)


async def test_one_token_is_told_in_the_singular(fleet):
    async with fleet() as f:
        client = await f.client()
        await client.post("/v1/completions", {"model": "tiny", "prompt": [5]}, "x-request-id: one\r\n")
        assert ", 1 prompt token\n" in explained((await decisions_of(f, "one"))[0])


async def test_each_attempt_is_told_with_where_the_one_before_failed(fleet):
    async def reset(conversation: Conversation) -> None:
        conversation.reset()

    async with fleet(reset, reset) as f:
        client = await f.client()
        await client.post("/v1/chat/completions", CHAT, "x-request-id: twice\r\n")
        first, second, *_ = await decisions_of(f, "twice")
        assert (first["attempt"], second["attempt"]) == (1, 2)
        assert second["failed_on"] == [first["instance_id"]]
        assert f"had failed on {first['instance_id']}" in explained(second)


async def test_unknown_requests_are_not_found_and_a_request_must_be_named(fleet):
    async with fleet() as f:
        assert await decisions_of(f, "nobody") == []
        client = await f.client(f.admin_port)
        answer = await client.get("/admin/decisions", TOKEN)
        assert (answer.status, answer.error["message"]) == (400, "`request_id` is missing in the query.")
        assert (await client.get("/admin/decisions?request_id=x")).status == 401
