"""The token ids of streams: who is asked for them, and who sees them."""

import pytest

from tests.router.conftest import Conversation
from tests.router.requests.numbered_stream import (
    CARDS,
    FIRST_ID,
    ON,
    PROMPT,
    WAYS,
    Numbered,
    ask,
    dies,
    events,
    last_error,
    text,
    undisturbed,
    whole_text,
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tokens", [1, 2, 12])
async def test_a_client_who_asked_for_no_ids_sees_none_and_each_byte_as_without(fleet, way, tokens):
    path, body = WAYS[way]
    expected = await undisturbed(fleet, path, body, like=Numbered(tokens))
    numbered = Numbered(tokens)
    async with fleet(numbered, about=ON, cards=CARDS) as f:
        answer = await (await f.client()).post(path, body)
        assert numbered.asked[0]["return_token_ids"] is True
        assert answer.body == expected.body
        own = {name: answer.headers[name] for name in ("x-request-id", "x-dualmap-queue-ms")}
        assert answer.headers == expected.headers | own


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_who_asked_for_ids_gets_those_of_the_whole_answer(fleet, way):
    path, body = WAYS[way]
    numbered = Numbered()
    numbered.fail_at[0] = (5, dies)
    async with fleet(numbered, numbered, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), path, body | {"return_token_ids": True}, numbered)
        ids = [i for event in events(answer) for choice in event["choices"] for i in choice.get("token_ids") or ()]
        assert ids == list(range(FIRST_ID, FIRST_ID + 12))
        first = events(answer)[0]
        assert (first if way == "chat" else first["choices"][0])["prompt_token_ids"] == PROMPT
        told = [event["choices"][0].get("prompt_token_ids") for event in events(answer)[1:] if event["choices"]]
        assert not any(told)


async def test_a_server_that_tells_no_ids_is_asked_for_them_once(fleet):
    numbered = Numbered(tells_ids=False)
    numbered.fail_at[2] = (3, dies)
    async with fleet(numbered, about=ON, cards=CARDS) as f:
        client = await f.client()
        for _ in range(2):
            assert text(await ask(client, *WAYS["chat"], numbered)) == whole_text(12)
        assert ["return_token_ids" in asked for asked in numbered.asked] == [True, False]
        answer = await ask(client, *WAYS["chat"], numbered)
        assert "its instance does not tell token ids" in last_error(answer)["message"]
        f.apply(f.member(0, model_cards=CARDS, incarnation=2))  # another process: it may be another version
        await ask(await f.client(), *WAYS["chat"], numbered)
        assert "return_token_ids" in numbered.asked[3]


async def test_a_server_that_refuses_the_wish_for_ids_is_asked_again_without(fleet):
    numbered = Numbered()

    async def strict(conversation: Conversation) -> None:
        if b"return_token_ids" in conversation.request.body:
            await conversation.send_json({"error": {"message": "unknown field: return_token_ids"}}, "400 Bad Request")
        else:
            await numbered(conversation)

    async with fleet(strict, about=ON, cards=CARDS) as f:
        client = await f.client()
        for _ in range(2):
            assert text(await ask(client, *WAYS["chat"], numbered)) == whole_text(12)
        assert ["return_token_ids" in r.json for r in f.instances[0].received] == [True, False, False]
        f.check_books_are_empty()


async def test_what_is_refused_with_and_without_the_wish_says_nothing_of_it(fleet):
    numbered = Numbered()

    async def strict(conversation: Conversation) -> None:
        if conversation.request.json.get("top_k") == "return_token_ids":
            message = "1 validation error: 'input': 'return_token_ids'"
            await conversation.send_json({"error": {"message": message}}, "400 Bad Request")
        else:
            await numbered(conversation)

    async with fleet(strict, about=ON, cards=CARDS) as f:
        client = await f.client()
        path, body = WAYS["chat"]
        answer = await client.post(path, body | {"top_k": "return_token_ids"})
        assert answer.status == 400
        assert "validation error" in answer.json["error"]["message"]
        await ask(client, path, body, numbered)
        assert ["return_token_ids" in r.json for r in f.instances[0].received] == [True, False, True]
        f.check_books_are_empty()


async def test_nothing_is_asked_for_where_nothing_may_go_on(fleet):
    numbered = Numbered()
    numbered.fail_at[0] = (3, dies)
    async with fleet(numbered, numbered, cards=CARDS) as f:
        answer = await ask(await f.client(), *WAYS["chat"], numbered)
        assert last_error(answer)["message"] == "The instance failed before its answer was complete."
        assert "return_token_ids" not in numbered.asked[0]
        assert not f.gateway.metrics.continuations
