"""Answers that an instance ends by itself, as vLLM does when it shuts down or its engine dies: they fail, though their
HTTP is in order. Without any of it sent, the request runs elsewhere."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from dualmap.router.observe.metrics import Outcome
from dualmap.router.requests.answer_plain import MAX_HELD_BYTES
from dualmap.router.requests.instance_work import InstanceWork
from dualmap.router.requests.phase import Phase
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import FailureCause
from tests.router.conftest import CHAT, STREAM, TEST_LIMITS, Conversation, Fleet, post

ROLE = '{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
TOKEN = '{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'
LAST = TOKEN.replace("null", '"stop"')
ABORT = TOKEN.replace("null", '"abort"')
ENGINE_DEAD = '{"error": {"message": "EngineCore died", "type": "InternalServerError", "param": null, "code": 500}}'
CLIENTS_FAULT = '{"error": {"message": "bad grammar", "type": "BadRequestError", "param": null, "code": 400}}'
Script = Callable[[Conversation], Awaitable[None]]


def sse(*events: str) -> bytes:
    return b"".join(f"data: {event}\n\n".encode() for event in events)


def stream(*events: str, dies: bool = False) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for event in events:
            await conversation.send_event(event)
        if dies:
            conversation.writer.close()
        else:
            await conversation.end_stream()

    return script


async def half_an_event(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.send(b"1e\r\n%b\r\n" % sse(TOKEN)[:30])
    conversation.writer.close()


def plain(finish_reason: str) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.send_json({"choices": [{"text": "half", "finish_reason": finish_reason}]})

    return script


def framed(body: bytes, length: int) -> Script:
    """A plain answer that ends before its length."""

    async def script(conversation: Conversation) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        await conversation.send(head.encode() + body)
        conversation.writer.close()

    return script


def first_then(first: Script, others: Script) -> Script:
    """Whichever instance is asked first fails."""
    asked = 0

    async def script(conversation: Conversation) -> None:
        nonlocal asked
        asked += 1
        await (first if asked == 1 else others)(conversation)

    return script


def check_failures(f: Fleet, cause: FailureCause, count: int) -> None:
    assert f.gateway.metrics.failures[cause] == sum(f.gateway.metrics.failures.values()) == count
    f.check_books_are_empty()


NOTHING_SENT = {
    "abort at once": (stream(ABORT, "[DONE]"), FailureCause.ABORTED),
    "abort after the role": (stream(ROLE, ABORT, "[DONE]"), FailureCause.ABORTED),
    "error at once": (stream(ENGINE_DEAD, "[DONE]"), FailureCause.ERROR),
    "error after the role": (stream(ROLE, ENGINE_DEAD, "[DONE]"), FailureCause.ERROR),
    "death after the role": (stream(ROLE, dies=True), FailureCause.BROKEN),
    "death in the first event": (half_an_event, FailureCause.BROKEN),
}


@pytest.mark.parametrize(("failing", "cause"), NOTHING_SENT.values(), ids=NOTHING_SENT)
async def test_a_stream_that_fails_before_its_first_token_runs_elsewhere(fleet, failing, cause):
    script = first_then(failing, stream(ROLE, TOKEN, LAST, "[DONE]"))
    async with fleet(script, script) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", STREAM)
        assert answer.status == 200
        assert answer.body == sse(ROLE, TOKEN, LAST, "[DONE]")
        assert [len(instance.received) for instance in f.instances] == [1, 1]
        failed_at = next(i for i in f.instances if answer.headers["x-dualmap-instance"] != f"i{f.instances.index(i)}")
        await f.until(lambda: failed_at.open_connections == 0)
        assert f.gateway.scheduler.stats.retries == 1
        check_failures(f, cause, 1)


async def engine_is_dead(conversation: Conversation) -> None:
    await conversation.send_json(json.loads(ENGINE_DEAD), "500 Internal Server Error")


async def test_a_request_that_is_answered_with_500_runs_elsewhere(fleet):
    script = first_then(engine_is_dead, plain("stop"))
    async with fleet(script, script) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert (answer.status, answer.json["choices"][0]["finish_reason"]) == (200, "stop")
        assert [len(instance.received) for instance in f.instances] == [1, 1]
        check_failures(f, FailureCause.ERROR, 1)


OTHER_ERROR = '{"object":"error","message":"busy","type":"ServiceUnavailableError","param":null,"code":503}'
SAID = {
    "at once": ((ENGINE_DEAD,), 500, json.loads(ENGINE_DEAD)),
    "after the role": ((ROLE, ENGINE_DEAD), 500, json.loads(ENGINE_DEAD)),
    "with another status": ((OTHER_ERROR,), 503, {"error": json.loads(OTHER_ERROR)}),
}


@pytest.mark.parametrize(("events", "status", "told"), SAID.values(), ids=SAID)
async def test_what_each_instance_says_in_its_stream_is_told_as_if_it_had_been_a_plain_answer(
    fleet, events, status, told
):
    async with fleet(*[stream(*events, "[DONE]")] * 2) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", STREAM, "x-request-id: mine\r\n")
        assert (answer.status, answer.json) == (status, told)
        assert answer.headers["content-type"] == "application/json"
        assert (answer.headers["x-request-id"], answer.headers["x-dualmap-instance"][0]) == ("mine", "i")
        assert (await client.get("/health")).status == 200
        attempts = f.gateway.scheduler.config.max_attempts
        assert sum(len(instance.received) for instance in f.instances) == attempts
        assert f.gateway.metrics.outcomes["instance_error"] == 1
        await f.until(lambda: not any(instance.open_connections for instance in f.instances))
        check_failures(f, FailureCause.ERROR if status == 500 else FailureCause.REFUSED, attempts - 1)


async def resets(conversation: Conversation) -> None:
    conversation.reset()


async def is_full(conversation: Conversation) -> None:
    await conversation.send_json({"error": {"message": "full"}}, "503 Service Unavailable")


@pytest.mark.parametrize("other", [resets, is_full])
@pytest.mark.parametrize("said", [engine_is_dead, stream(ROLE, ENGINE_DEAD, "[DONE]")])
async def test_what_one_instance_said_is_told_where_the_others_have_not_answered(fleet, said, other):
    async with fleet(first_then(said, other), config=SchedulerConfig(max_attempts=2)) as f:
        client = await f.client()
        for path in ("/v1/chat/completions", "/v1/messages"):
            f.instances[0].script = first_then(said, other)
            answer = await client.post(path, {**STREAM, "max_tokens": 5})
            assert answer.status == 500
            assert answer.json["error"]["message"] == "EngineCore died"
            assert ("code" in answer.json["error"]) is (path == "/v1/chat/completions")
        assert len(f.instances[0].received) == 4
        assert f.gateway.metrics.outcomes["rejected_attempts_exhausted"] == 2
        f.check_books_are_empty()


async def test_what_the_last_instance_that_may_be_tried_says_with_500_is_what_the_client_is_told(fleet):
    async with fleet(engine_is_dead, engine_is_dead) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert (answer.status, answer.json) == (500, json.loads(ENGINE_DEAD))
        attempts = f.gateway.scheduler.config.max_attempts
        assert sum(len(instance.received) for instance in f.instances) == attempts
        check_failures(f, FailureCause.ERROR, attempts - 1)


BY_ITSELF = "The instance ended the answer by itself: it shuts down, or its engine failed."


@pytest.mark.parametrize(
    ("failing", "code", "message"), [(ABORT, 502, BY_ITSELF), (ENGINE_DEAD, 500, "EngineCore died")]
)
async def test_a_stream_that_fails_after_a_token_ends_with_an_error(fleet, failing, code, message):
    """The instance's own, where it says what went wrong."""
    first_token_there = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.send_event(ROLE)
        await conversation.send_event(TOKEN)
        await first_token_there.wait()
        body = sse(TOKEN, failing, "[DONE]")
        await conversation.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    async with fleet(script, script) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM))
        await client.answer_head()
        assert await client.chunk() == sse(ROLE, TOKEN)
        first_token_there.set()
        assert await client.chunk() == sse(TOKEN)
        error, done, end = (await client.chunk()).split(b"\n\n")
        assert await client.chunk() == b""
        told = json.loads(error.removeprefix(b"data: "))["error"]
        assert (told["code"], told["message"]) == (code, message)
        assert (done, end) == (b"data: [DONE]", b"")
        assert await client.at_end()
        assert sum(len(instance.received) for instance in f.instances) == 1
        assert f.gateway.metrics.outcomes["failed_stream"] == 1
        await f.until(lambda: not any(instance.open_connections for instance in f.instances))
        check_failures(f, FailureCause.ABORTED, 1)


@pytest.mark.parametrize("events", [(CLIENTS_FAULT,), (ROLE, CLIENTS_FAULT), (ROLE, TOKEN, CLIENTS_FAULT)])
async def test_an_error_that_is_the_clients_own_is_relayed_as_it_is(fleet, events):
    async with fleet(stream(*events, "[DONE]")) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", STREAM)
        assert answer.body == sse(*events, "[DONE]")
        assert (await client.get("/health")).status == 200
        assert len(f.instances[0].received) == 1
        check_failures(f, FailureCause.ABORTED, 0)


def chunked(*pieces: bytes, kind: str = "application/json; charset=utf-8", whole: bool = False) -> Script:
    """A plain answer that breaks between its chunks, unless it is whole."""

    async def script(conversation: Conversation) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        await conversation.send(head.encode())
        for piece in pieces:
            await conversation.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        if whole:
            await conversation.send(b"0\r\n\r\n")
        else:
            conversation.writer.close()

    return script


PLAIN = {
    "aborted": (plain("abort"), FailureCause.ABORTED),
    "aborted in chunks": (
        chunked(b'{"choices":[', b'{"finish_reason":"abort"}]}', whole=True),
        FailureCause.ABORTED,
    ),
    "cut between chunks": (chunked(b'{"choices":[', b"{}"), FailureCause.BROKEN),
    "cut in mid-body": (framed(b'{"choices":', 1000), FailureCause.BROKEN),
}


@pytest.mark.parametrize(("failing", "cause"), PLAIN.values(), ids=PLAIN)
async def test_a_plain_answer_that_fails_runs_elsewhere(fleet, failing, cause):
    script = first_then(failing, plain("stop"))
    async with fleet(script, script) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert answer.json["choices"][0]["finish_reason"] == "stop"
        assert [len(instance.received) for instance in f.instances] == [1, 1]
        check_failures(f, cause, 1)


@pytest.mark.parametrize(("script", "body"), [(plain("abort"), CHAT), (stream(ROLE, ABORT, "[DONE]"), STREAM)])
async def test_an_answer_that_all_instances_abort_is_an_error(fleet, script, body):
    async with fleet(script, script) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", body)
        assert answer.status == 503
        assert answer.error["message"] == "No instance could take the request."
        assert f.gateway.metrics.outcomes["rejected_attempts_exhausted"] == 1
        check_failures(f, FailureCause.ABORTED, f.gateway.scheduler.config.max_attempts)


@pytest.mark.parametrize(("length", "held"), [(MAX_HELD_BYTES, True), (MAX_HELD_BYTES + 1, False)])
async def test_a_plain_answer_is_held_until_it_is_complete_unless_it_is_large(fleet, length, held):
    go_on = asyncio.Event()
    body = b"x" * length

    async def in_two_halves(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (length, body[:1000]))
        await go_on.wait()
        await conversation.send(body[1000:])

    async with fleet(in_two_halves) as f:
        client = await f.client(limit=2 * length)
        answering = asyncio.create_task(client.post("/v1/embeddings", b"{}"))
        await f.until(lambda: any(e.running and e.running.pieces for e in f.gateway.driver.exchanges.values()))
        (exchange,) = f.gateway.driver.exchanges.values()
        assert (exchange.phase is Phase.ANSWERING) is not held
        assert exchange.running.sent_pieces == (0 if held else exchange.running.pieces)
        go_on.set()
        assert (await answering).body == body
        f.check_books_are_empty()


async def test_an_answer_of_unknown_length_is_held_until_it_has_become_large(fleet):
    go_on = asyncio.Event()
    piece = b"x" * (MAX_HELD_BYTES // 2)

    async def in_pieces(conversation: Conversation) -> None:
        await conversation.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for i in range(4):
            await conversation.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            if i == 0:
                await go_on.wait()
        await conversation.send(b"0\r\n\r\n")

    async with fleet(in_pieces) as f:
        client = await f.client(limit=8 * MAX_HELD_BYTES)
        answering = asyncio.create_task(client.post("/v1/embeddings", b"{}"))
        await f.until(lambda: any(e.running and e.running.pieces for e in f.gateway.driver.exchanges.values()))
        (exchange,) = f.gateway.driver.exchanges.values()
        assert exchange.phase is Phase.RUNNING
        go_on.set()
        answer = await answering
        assert answer.body == piece * 4
        assert len(answer.chunks) > 1
        f.check_books_are_empty()


async def test_a_held_answer_that_still_comes_is_no_stall(fleet):
    go_on = asyncio.Event()

    async def in_two_halves(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n" + b'{"ok"')
        await go_on.wait()
        await conversation.send(b":true}")

    async with fleet(in_two_halves, sweep_interval_s=3600.0) as f:
        client = await f.client()
        answering = asyncio.create_task(client.post("/v1/chat/completions", CHAT))
        await f.until(lambda: any(e.running and e.running.pieces for e in f.gateway.driver.exchanges.values()))
        (exchange,) = f.gateway.driver.exchanges.values()
        assert not exchange.is_stalled(1e9, TEST_LIMITS, InstanceWork())
        assert not exchange.is_stalled(1e9 + 59.0, TEST_LIMITS, InstanceWork())
        assert exchange.is_stalled(1e9 + 61.0, TEST_LIMITS, InstanceWork())
        go_on.set()
        assert (await answering).json == {"ok": True}


@pytest.mark.parametrize("others", [0, 1])
async def test_a_plain_answer_that_has_begun_goes_on_nowhere_else_when_its_instance_is_lost(fleet, others):
    length = MAX_HELD_BYTES + 1

    async def half(conversation: Conversation) -> None:
        await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (length, b"x" * 1000))
        await conversation.closed_by_gateway()

    async with fleet(*[half] * (1 + others)) as f:
        client = await f.client()
        await client.send(post("/v1/embeddings", {"input": "x"}))
        assert (await client.answer_head()).status == 200
        (exchange,) = f.gateway.driver.exchanges.values()
        lost = exchange.running.dispatch.instance_id
        f.apply(*(f.member(i) for i in range(1 + others) if f"i{i}" != lost))
        assert len(await client.reader.read()) < length  # the connection ends in mid-answer
        assert sum(len(instance.received) for instance in f.instances) == 1
        assert f.gateway.metrics.outcomes[Outcome.FAILED_STREAM] == 1
        f.check_books_are_empty()
