"""Instances of one pool that offer different models, names and lengths: whose requests go where, and what is listed."""

import json

import pytest

from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.fleet.member import MemberState
from tests.router.conftest import CHAT, STREAM, answer_hello, post

CHAT_PATH = "/v1/chat/completions"
A, B = {"id": "a", "max_model_len": 1000}, {"id": "b", "max_model_len": 8000}


def card(model: str, tokens: int | None = None, **more: str) -> dict:
    return {"id": model, "object": "model"} | ({} if tokens is None else {"max_model_len": tokens}) | more


def too_long(tokens: int):
    """As vLLM refuses it, before a stream, too."""

    async def script(conversation) -> None:
        message = f"This model's maximum context length is {tokens} tokens. However, your prompt contains more."
        error = {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}
        await conversation.send_json({"error": error}, status="400 Bad Request")

    return script


async def refuses(conversation) -> None:
    error = {"message": "`n` must be 1", "type": "BadRequestError", "param": "n", "code": 400}
    await conversation.send_json({"error": error}, status="400 Bad Request")


async def answers_plainly(conversation) -> None:
    """Without `usage`, from which the gateway would learn how long prompts are."""
    await conversation.send_json({"choices": [{"text": "hello"}]})


async def listed(client) -> dict[str, dict]:
    return {card["id"]: card for card in (await client.get("/v1/models")).json["data"]}


async def test_each_request_goes_where_its_model_is(fleet):
    async with fleet(answer_hello, answer_hello) as f:
        f.apply(f.member(0, model_cards=(A,)), f.member(1, model_cards=(B,)))
        client = await f.client()
        assert list(await listed(client)) == ["a", "b"]
        for n in range(20):
            for model, instance in (("a", "i0"), ("b", "i1")):
                messages = [{"role": "user", "content": f"question {n} " * 30}]
                answer = await client.post(CHAT_PATH, {"model": model, "messages": messages})
                assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, instance)


@pytest.mark.parametrize("path", ["/tokenize", "/v1/embeddings", "/v1/anything"])
async def test_apis_without_a_place_of_their_own_go_where_the_model_is_too(fleet, path):
    async with fleet(answer_hello, answer_hello) as f:
        f.apply(f.member(0, model_cards=(A,)), f.member(1, model_cards=(B,)))
        client = await f.client()
        for _ in range(4):
            assert (await client.post(path, {"model": "b"})).headers["x-dualmap-instance"] == "i1"


async def test_a_model_that_nobody_serves_is_not_there_and_one_whose_instance_is_away_is_not_ready(fleet):
    async with fleet(answer_hello, answer_hello) as f:
        f.apply(f.member(0, model_cards=(A,)), f.member(1, MemberState.STARTING, model_cards=(B,)))
        client = await f.client()
        unknown = await client.post(CHAT_PATH, {**CHAT, "model": "c"})
        assert (unknown.status, unknown.error["message"]) == (404, "The model `c` does not exist.")
        away = await client.post(CHAT_PATH, {**CHAT, "model": "b"})
        assert (away.status, away.headers["retry-after"]) == (503, "1")
        f.apply(f.member(0, model_cards=(A,)), f.member(1, model_cards=(B,)))
        assert (await client.post(CHAT_PATH, {**CHAT, "model": "b"})).status == 200
        f.apply(f.member(0, model_cards=(A,)))
        assert (await client.post(CHAT_PATH, {**CHAT, "model": "b"})).status == 404
        assert f.instances[0].received == []


async def test_where_models_differ_a_request_has_to_name_its_own(fleet):
    async with fleet(answer_hello, answer_hello) as f:
        client = await f.client()
        unnamed = {"messages": CHAT["messages"]}
        f.apply(f.member(0, model_cards=(A, card("alias"))), f.member(1, model_cards=(A,)))
        assert (await client.post(CHAT_PATH, unnamed)).status == 200
        f.apply(f.member(0, model_cards=(A,)), f.member(1, model_cards=(B,)))
        answer = await client.post(CHAT_PATH, unnamed)
        assert (answer.status, answer.error["param"]) == (400, "model")


async def test_models_are_listed_with_the_largest_length_of_each(fleet):
    async with fleet(answer_hello, answer_hello) as f:
        short, long = card("chat", 1000, root="/short"), card("chat", 8000, root="/long")
        f.apply(f.member(0, model_cards=(short, card("x"))), f.member(1, model_cards=(long,)))
        client = await f.client()
        assert await listed(client) == {"chat": card("chat", 8000, root="/short"), "x": card("x")}
        assert (await client.get("/v1/models/chat")).json["max_model_len"] == 8000


async def answers_few(conversation) -> None:
    """Whatever the prompt."""
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    await conversation.send_json({"choices": [{"text": "hello"}], "usage": usage})


async def test_a_long_prompt_stays_long_whatever_servers_have_reported_of_others(fleet):
    async with fleet(answers_few, answers_few) as f:
        f.apply(f.member(0, model_cards=(card("tiny", 2000),)), f.member(1, model_cards=(card("tiny", 8000),)))
        client = await f.client()
        for n in range(20):
            messages = [{"role": "user", "content": f"{n} word" * 2000}]
            assert (await client.post(CHAT_PATH, {**CHAT, "messages": messages})).status == 200
        assert f.instances[0].received == []


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_a_prompt_that_fits_only_the_long_one_goes_there(fleet, body):
    async with fleet(too_long(1000), answers_plainly) as f:
        f.apply(f.member(0, model_cards=(card("tiny", 1000),)), f.member(1, model_cards=(card("tiny", 8000),)))
        client = await f.client()
        for n in range(10):
            messages = [{"role": "user", "content": f"{n} word" * 1000}]
            assert (await client.post(CHAT_PATH, {**body, "messages": messages})).status == 200
            assert (await client.post(CHAT_PATH, {**body, "max_tokens": 1000 + n})).status == 200
        assert f.instances[0].received == []


async def test_only_the_prompt_may_be_longer_than_expected_and_not_the_answer(fleet):
    async with fleet(answers_plainly, answers_plainly) as f:
        f.apply(f.member(0, model_cards=(card("tiny", 1000),)), f.member(1, model_cards=(card("tiny", 8000),)))
        client = await f.client()
        for n in range(20):
            messages = [{"role": "user", "content": f"question {n}"}]
            assert (await client.post(CHAT_PATH, {**CHAT, "messages": messages, "max_tokens": 980})).status == 200
        assert f.instances[0].received


async def test_many_short_texts_are_no_long_one(fleet):
    async with fleet(answers_plainly, answers_plainly) as f:
        f.apply(f.member(0, model_cards=(card("tiny", 1000),)), f.member(1, model_cards=(card("tiny", 8000),)))
        client = await f.client()
        for n in range(20):
            body = {"model": "tiny", "input": [f"{n} a short text " * 20] * 100}
            assert (await client.post("/v1/embeddings", body)).status == 200
        assert f.instances[0].received


async def test_what_fits_nowhere_is_told_so_by_the_longest(fleet):
    async with fleet(too_long(1000), too_long(2000)) as f:
        f.apply(f.member(0, model_cards=(card("tiny", 1000),)), f.member(1, model_cards=(card("tiny", 2000),)))
        client = await f.client()
        answer = await client.post(CHAT_PATH, {**CHAT, "max_tokens": 5000})
        assert (answer.status, answer.headers["x-dualmap-instance"]) == (400, "i1")
        assert "2000" in answer.error["message"]


async def test_while_the_long_one_is_away_a_prompt_for_it_waits_and_others_are_served(fleet):
    async with fleet(too_long(1000), answer_hello) as f:
        short, long = card("tiny", 1000), card("tiny", 8000)
        f.apply(f.member(0, model_cards=(short,)), f.member(1, MemberState.LOST, model_cards=(long,)))
        client = await f.client()
        assert (await client.post(CHAT_PATH, {**CHAT, "max_tokens": 5000})).status == 503
        f.instances[0].script = answer_hello
        assert (await client.post(CHAT_PATH, {**CHAT, "max_tokens": 960})).status == 200


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_what_was_underestimated_runs_once_more_where_longer_ones_do(fleet, body):
    async with fleet(too_long(1000), answer_hello) as f:
        f.apply(f.member(0, model_cards=(card("tiny", 1000),)), f.member(1, model_cards=(card("tiny", 8000),)))
        client = await f.client()
        for n in range(8):
            messages = [{"role": "user", "content": f"{n} dense"}]
            answer = await client.post(CHAT_PATH, {**body, "messages": messages})
            assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, "i1")
        assert f.instances[0].received
        f.check_books_are_empty()


async def test_an_instance_that_has_just_lost_the_model_is_not_the_last_to_be_asked(fleet):
    async def has_lost_it(conversation) -> None:
        error = {"message": "The model `tiny` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
        await conversation.send_json({"error": error}, status="404 Not Found")

    async with fleet(has_lost_it, answer_hello, cards=(card("tiny"),)) as f:
        client = await f.client()
        for n in range(8):
            assert (await client.post(CHAT_PATH, {**CHAT, "user": str(n)})).status == 200
        assert f.instances[0].received
        f.instances[1].script = has_lost_it
        answer = await client.post(CHAT_PATH, CHAT)
        assert (answer.status, answer.error["message"]) == (404, "The model `tiny` does not exist.")
        f.check_books_are_empty()


async def test_another_mistake_is_told_as_the_instance_tells_it(fleet):
    async with fleet(refuses, refuses) as f:
        f.apply(f.member(0, model_cards=(card("tiny", 1000),)), f.member(1, model_cards=(card("tiny", 8000),)))
        client = await f.client()
        answer = await client.post(CHAT_PATH, CHAT)
        assert (answer.status, answer.error["param"]) == (400, "n")
        assert sum(len(instance.received) for instance in f.instances) == 1


async def test_where_the_longer_one_fails_the_client_is_not_told_that_the_prompt_is_too_long(fleet):
    async def dies(conversation) -> None:
        conversation.reset()

    async with fleet(too_long(1000), dies, config=SchedulerConfig(suspect_s=0.0)) as f:
        f.apply(f.member(0, model_cards=(card("tiny", 1000),)), f.member(1, model_cards=(card("tiny", 8000),)))
        client = await f.client()
        statuses = [(await client.post(CHAT_PATH, {**CHAT, "user": str(n)})).status for n in range(6)]
        assert set(statuses) == {503}


async def test_names_of_one_model_share_what_is_cached(fleet):
    names = (card("qwen", root="/models/qwen"), card("qwen-7b", root="/models/qwen"))
    async with fleet(answer_hello, answer_hello, cards=names) as f:
        client = await f.client()
        messages = [{"role": "user", "content": "a long question " * 2000}]
        ran_on = set()
        for model in ("qwen", "qwen-7b"):
            answer = await client.post(CHAT_PATH, {"model": model, "messages": messages})
            ran_on.add(answer.headers["x-dualmap-instance"])
            assert (
                json.loads(f.instances[int(answer.headers["x-dualmap-instance"][1])].received[-1].body)["model"]
                == model
            )
        assert len(ran_on) == 1
        chains = {decision.attempt.request.blocks for decision in f.gateway.noted.decisions.latest()}
        assert len(chains) == 1


async def test_who_waits_for_a_model_that_is_taken_away_is_told_that_there_is_none(fleet):
    async def waits(conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(waits, answer_hello) as f:
        f.apply(f.member(0, model_cards=(A,)), f.member(1, model_cards=(B,)))
        runs, waiting = await f.client(), await f.client()
        large = {**STREAM, "model": "a", "messages": [{"role": "user", "content": "a word " * 10_000}]}
        await runs.send(post(CHAT_PATH, large))
        await f.until(lambda: len(f.instances[0].received) == 1)
        await waiting.send(post(CHAT_PATH, {**CHAT, "model": "a"}))
        await f.until(lambda: f.gateway.scheduler.loads.waiting == 1)
        f.apply(f.member(0, model_cards=(B,)), f.member(1, model_cards=(B,)))
        answer = await waiting.answer()
        assert (answer.status, answer.error["message"]) == (404, "The model `a` does not exist.")
