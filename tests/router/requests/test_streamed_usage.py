"""Streams tell the gateway their usage, and clients what they asked for."""

import json

import pytest

from tests.router.conftest import CHAT, STREAM, Conversation, post

ASK = b'"stream_options":{"include_usage":true},'
USAGE = {
    "prompt_tokens": 40,
    "total_tokens": 52,
    "completion_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 32},
}
TOKEN = '{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
LAST = '{"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"length"}]}'
FINAL = json.dumps({"choices": [], "usage": USAGE}, separators=(",", ":"))


def sse(*events: str) -> bytes:
    return b"".join(f"data: {event}\n\n".encode() for event in events)


async def as_vllm(conversation: Conversation) -> None:
    """A stream with usage where it is asked for."""
    asked = (conversation.request.json.get("stream_options") or {}).get("include_usage")
    await conversation.begin_stream()
    for event in (TOKEN, LAST, *([FINAL] if asked else []), "[DONE]"):
        await conversation.send_event(event)
    await conversation.end_stream()


@pytest.mark.parametrize(
    ("path", "body", "sent"),
    [
        (
            "/v1/chat/completions",
            b' \n{ "model":"tiny","stream":true,"messages":[{"role":"user","content":"{}"}]}',
            b' \n{%b "model":"tiny","stream":true,"messages":[{"role":"user","content":"{}"}]}' % ASK,
        ),
        (
            "/v1/completions",
            b'{"prompt":"\\"stream_options\\"","stream":true,"model":"tiny"}',
            b'{%b"prompt":"\\"stream_options\\"","stream":true,"model":"tiny"}' % ASK,
        ),
    ],
)
async def test_a_stream_is_asked_for_its_usage_which_its_client_does_not_see(fleet, path, body, sent):
    async with fleet(as_vllm) as f:
        client = await f.client()
        answer = await client.post(path, body)
        assert f.instances[0].received[0].body == sent
        assert answer.body == sse(TOKEN, LAST, "[DONE]")
        metrics = f.gateway.metrics
        assert (metrics.prompt_tokens, metrics.cached_prompt_tokens, metrics.output_tokens) == (40, 32, 12)
        f.check_books_are_empty()


@pytest.mark.parametrize(
    ("options", "events"),
    [
        ({"include_usage": True}, (TOKEN, LAST, FINAL, "[DONE]")),
        ({"include_usage": False}, (TOKEN, LAST, "[DONE]")),
        ({"continuous_usage_stats": False}, (TOKEN, LAST, "[DONE]")),
        ({}, (TOKEN, LAST, "[DONE]")),
        (None, (TOKEN, LAST, "[DONE]")),
    ],
)
async def test_a_client_that_speaks_of_stream_options_has_its_way(fleet, options, events):
    async with fleet(as_vllm) as f:
        client = await f.client()
        body = json.dumps(STREAM | {"stream_options": options}).encode()
        answer = await client.post("/v1/chat/completions", body)
        assert f.instances[0].received[0].body == body
        assert answer.body == sse(*events)
        assert f.gateway.metrics.prompt_tokens == (40 if FINAL in events else 0)


@pytest.mark.parametrize("body", [CHAT, CHAT | {"stream": False}, CHAT | {"stream": None}])
async def test_what_is_no_stream_is_sent_unchanged(fleet, body):
    async with fleet() as f:
        client = await f.client()
        await client.post("/v1/chat/completions", body)
        assert f.instances[0].received[0].json == body


async def test_a_stream_whose_events_share_chunks_hides_its_usage_too(fleet):
    async def stream(conversation: Conversation) -> None:
        await conversation.begin_stream()
        body = sse(TOKEN, LAST, FINAL, "[DONE]")
        await conversation.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    async with fleet(stream) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", STREAM)).chunks == [sse(TOKEN, LAST, "[DONE]")]
        assert f.gateway.metrics.output_tokens == 12


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_stream_of_known_length_is_framed_anew_since_it_becomes_shorter(fleet, version):
    async def stream(conversation: Conversation) -> None:
        body = sse(TOKEN, LAST, FINAL, "[DONE]")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body)
        await conversation.send(head + body)

    async with fleet(stream) as f:
        for _ in range(2):
            client = await f.client()
            request = post("/v1/chat/completions", STREAM).replace(b"HTTP/1.1", f"HTTP/{version}".encode())
            await client.send(request)
            assert (await client.answer()).body == sse(TOKEN, LAST, "[DONE]")
        assert f.instances[0].connections == 1
