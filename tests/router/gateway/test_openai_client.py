"""The official OpenAI client against the gateway."""

import openai
import pytest

from tests.router.conftest import CHAT, Conversation


def chunk(text, finish_reason=None):
    return (
        '{"id":"c","object":"chat.completion.chunk","created":1,"model":"tiny","choices":'
        f'[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish_reason or "null"}}}]}}'
    )


async def chat(conversation: Conversation) -> None:
    if not conversation.request.json.get("stream"):
        message = {"role": "assistant", "content": "hello"}
        await conversation.send_json(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": "tiny",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
            }
        )
        return
    await conversation.begin_stream()
    for text in ("he", "llo"):
        await conversation.send_event(chunk(text))
    if conversation.request.json["messages"][0]["content"] == "die":
        conversation.writer.close()
        return
    await conversation.send_event(chunk("", '"stop"'))
    await conversation.send_event("[DONE]")
    await conversation.end_stream()


def connect(f):
    return openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{f.port}/v1", api_key="k", max_retries=0, timeout=10.0)


async def test_a_plain_answer(fleet):
    async with fleet(chat) as f, connect(f) as client:
        raw = await client.chat.completions.with_raw_response.create(**CHAT)
        assert raw.headers["x-dualmap-instance"] == "i0"
        answer = raw.parse()
        assert answer.choices[0].message.content == "hello"
        assert answer.usage.prompt_tokens == 5


async def test_a_stream(fleet):
    async with fleet(chat) as f, connect(f) as client:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        assert "".join([event.choices[0].delta.content async for event in stream]) == "hello"


async def test_a_stream_that_breaks_raises_the_error_of_the_gateway(fleet):
    async with fleet(chat) as f, connect(f) as client:
        messages = [{"role": "user", "content": "die"}]
        stream = await client.chat.completions.create(model="tiny", messages=messages, stream=True)
        events = aiter(stream)
        assert [(await anext(events)).choices[0].delta.content for _ in range(2)] == ["he", "llo"]
        with pytest.raises(openai.APIError, match="failed before its answer was complete"):
            await anext(events)


async def test_models(fleet):
    card = {"id": "tiny", "object": "model", "created": 1, "owned_by": "vllm"}
    async with fleet(chat, cards=(card,)) as f, connect(f) as client:
        assert [model.id async for model in client.models.list()] == ["tiny"]


async def test_errors_raise_what_the_client_has_for_them(fleet):
    async with fleet(chat, cards=({"id": "tiny"},)) as f, connect(f) as client:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(**CHAT | {"model": "other"})
        with pytest.raises(openai.BadRequestError, match="x-dualmap-timeout-ms"):
            await client.chat.completions.create(**CHAT, extra_headers={"x-dualmap-timeout-ms": "soon"})
        f.apply()
        with pytest.raises(openai.InternalServerError, match="No instance is ready"):
            await client.chat.completions.create(**CHAT)


async def test_a_body_of_20_mb_raises_and_does_not_hang(fleet):
    async with fleet(chat) as f, connect(f) as client:
        messages = [{"role": "user", "content": "x" * 20_000_000}]
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(model="tiny", messages=messages)
        assert raised.value.status_code == 413
