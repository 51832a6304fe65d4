"""Streams of servers that tell token ids in part, end in odd places or in odd ways: the client has one whole answer, or
an error at once."""

import asyncio
from typing import Any

import pytest

from dualmap.router.observe.metrics import Continuation, GatewayMetrics
from dualmap.scheduler.events import FailureCause
from tests.router.conftest import STREAM, Answer, Conversation, Script, post
from tests.router.requests.numbered_stream import (
    CARDS,
    COMMENT,
    FIRST_ID,
    ON,
    PROMPT,
    WAYS,
    Numbered,
    ask,
    last_error,
    spelled,
    text,
    whole_text,
)

PATH = WAYS["chat"][0]
ABOUT = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1700, "model": "tiny"}
USAGE = {"prompt_tokens": 3, "total_tokens": 15, "completion_tokens": 12}
BEGINNING = spelled(
    ABOUT | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "prompt_token_ids": PROMPT}
)
UNTOLD = spelled(ABOUT | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
LAST = spelled(ABOUT | {"choices": [], "usage": USAGE})
PING = b": ping\n\n"


def token(number: int, ids: Any = None, finish: str | None = None) -> str:
    """ids: other ones than it has; False: none."""
    choice: dict[str, Any] = {"index": 0, "delta": {"content": f" t{number}"}, "finish_reason": finish}
    if ids is not False:
        choice["token_ids"] = [FIRST_ID + number] if ids is None else ids
    return spelled(ABOUT | {"choices": [choice]})


TOKENS = [token(number) for number in range(3)]
FINISHED = [BEGINNING, *map(token, range(11)), token(11, finish="stop")]


class Server:
    """Sends these events of the first answer, each in a write of its own, once the client has the one before; later
    answers are numbered. cut: how it ends."""

    def __init__(self, *sent: str | bytes, cut: str = "reset", line_end: str = "\n", later: tuple[Script, ...] = ()):
        self.numbered = Numbered()
        self.asked = 0
        self._sent = sent
        self._cut = cut
        self._line_end = line_end
        self._later = later

    async def __call__(self, conversation: Conversation) -> None:
        number = self.asked
        self.asked += 1
        if number:
            await (self._later[number - 1] if number <= len(self._later) else self.numbered)(conversation)
            return
        if self._cut == "close":
            await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        else:
            await conversation.begin_stream()
        for place, sent in enumerate(self._sent):
            end = self._line_end
            data = sent if isinstance(sent, bytes) else f"data: {sent}{end}{end}".encode()
            await conversation.send(data if self._cut == "close" else b"%x\r\n%b\r\n" % (len(data), data))
            while place and self.numbered.seen() < place + 1:  # noqa: ASYNC110
                await asyncio.sleep(0)
        if self._cut == "reset":
            conversation.reset()
        elif self._cut == "clean":
            await conversation.end_stream()
        else:
            conversation.writer.close()


async def answer_of(fleet, server: Server, fields: Any = None) -> tuple[Answer, GatewayMetrics]:
    """Of three such instances; their books are empty afterwards."""
    async with fleet(server, server, server, about=ON, cards=CARDS) as f:
        got = b""
        client = await f.client()
        server.numbered.seen = lambda: got.replace(b"\r", b"").count(b"\n\n")
        await client.send(post(PATH, STREAM | (fields or {})))
        answer = await client.answer_head()
        while chunk := await client.chunk():
            got += chunk
        answer.body = got.replace(PING, b"").replace(COMMENT, b"").replace(b"\r\n", b"\n")
        await f.until(lambda: not f.gateway.driver.exchanges)
        f.check_books_are_empty()
        f.gateway.scheduler.check()
        return answer, f.gateway.metrics


UNKNOWN = {
    "a text without ids": [TOKENS[0], token(1, False), TOKENS[2]],
    "the last text without ids": [*TOKENS[:2], token(2, False)],
    "a text with empty ids": [TOKENS[0], token(1, []), TOKENS[2]],
    "ids that are strings": [token(number, [str(FIRST_ID + number)]) for number in range(3)],
    "ids in lists": [token(number, [[FIRST_ID + number]]) for number in range(3)],
    "ids that are no whole numbers": [token(number, [FIRST_ID + number + 0.5]) for number in range(3)],
}


@pytest.mark.parametrize("sent", UNKNOWN.values(), ids=UNKNOWN)
async def test_an_answer_whose_ids_are_not_all_known_ends_with_an_error(fleet, sent):
    server = Server(BEGINNING, *sent)
    answer, metrics = await answer_of(fleet, server)
    assert text(answer) == whole_text(3)
    assert "does not tell token ids" in last_error(answer)["message"]
    assert metrics.continuations == {(FailureCause.BROKEN, Continuation.NOT_EXACT): 1}
    assert server.asked == 1


async def test_a_rest_that_tells_no_ids_is_counted_by_its_usage_and_not_gone_on_from(fleet):
    def without_ids(cut: int | None) -> Script:
        async def rest(conversation: Conversation) -> None:
            await conversation.begin_stream()
            for number in range(3, 12)[:cut]:
                reason = "stop" if number == 11 else None
                choice = {"index": 0, "text": f" t{number} twice", "finish_reason": reason, "token_ids": None}
                await conversation.send_event(spelled({"choices": [choice]}))
            if cut is not None:
                while server.numbered.seen() < 5:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                conversation.reset()
                return
            own = {"prompt_tokens": 6, "completion_tokens": 18, "total_tokens": 24}
            await conversation.send_event(spelled({"choices": [], "usage": own}))
            await conversation.send_event("[DONE]")
            await conversation.end_stream()

        return rest

    server = Server(BEGINNING, *TOKENS, later=(without_ids(None),))
    answer, metrics = await answer_of(fleet, server, {"stream_options": {"include_usage": True}})
    assert b'"usage":{"prompt_tokens":3,"total_tokens":24,"completion_tokens":21}' in answer.body
    assert metrics.output_tokens == 21

    server = Server(BEGINNING, *TOKENS, later=(without_ids(1),))
    answer, _ = await answer_of(fleet, server)
    assert text(answer) == whole_text(4) + " twice"
    assert "does not tell token ids" in last_error(answer)["message"]


OVER = {
    "the finish and comments": [*FINISHED, PING, PING, PING],
    "the usage and comments": [*FINISHED, LAST, PING, PING],
    "[DONE] and comments": [*FINISHED, LAST, "[DONE]", PING, PING],
    "the finish, from a server that tells no ids": [
        UNTOLD,
        *(token(number, False) for number in range(11)),
        token(11, False, "stop"),
    ],
}


@pytest.mark.parametrize("sent", OVER.values(), ids=OVER)
async def test_nothing_is_asked_for_behind_the_end_of_an_answer(fleet, sent):
    server = Server(*sent)
    asks = {"stream_options": {"include_usage": True}} if LAST in sent else {}
    answer, metrics = await answer_of(fleet, server, asks)
    assert text(answer) == whole_text(12)
    assert answer.body.count(b"[DONE]") == 1
    assert server.asked == 1
    assert (metrics.outcomes["ok"], metrics.outcomes["failed_stream"], metrics.continuations) == (1, 0, {})
    assert metrics.output_tokens >= 12


@pytest.mark.parametrize("cut", ["clean", "close"])
async def test_an_answer_that_stops_in_midst_is_no_whole_one_however_its_connection_ends(fleet, cut):
    answer, metrics = await answer_of(fleet, Server(BEGINNING, *TOKENS, cut=cut))
    assert text(answer) == whole_text(12)
    assert metrics.continuations == {(FailureCause.BROKEN, Continuation.WENT_ON): 1}


async def test_lines_may_end_as_the_server_likes(fleet):
    answer, _ = await answer_of(fleet, Server(BEGINNING, *TOKENS, line_end="\r\n"))
    assert text(answer) == whole_text(12)


async def test_the_rest_may_end_its_lines_as_its_server_likes(fleet):
    async def rest(conversation: Conversation) -> None:
        sent = conversation.send

        async def send(data: bytes) -> None:
            if b"data: " in data:
                event = data.partition(b"\r\n")[2].strip() + b"\r\n\r\n"
                data = b"%x\r\n%b\r\n" % (len(event), event)
            await sent(data)

        conversation.send = send
        await server.numbered(conversation)

    server = Server(BEGINNING, *TOKENS, later=(rest,))
    answer, _ = await answer_of(fleet, server)
    assert text(answer) == whole_text(12)
    assert server.asked == 2


async def test_a_length_that_is_no_number_ends_in_an_error(fleet):
    answer, _ = await answer_of(fleet, Server(BEGINNING, *TOKENS), {"min_tokens": "some"})
    assert "is no number" in last_error(answer)["message"]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_server_that_refuses_to_tell_ids_is_asked_without(fleet, status, at_once):
    plain = Numbered(tells_ids=False)

    async def script(conversation: Conversation) -> None:
        if "return_token_ids" not in conversation.request.json:
            await plain(conversation)
            return
        said = b'{"error":{"message":"return_token_ids is not permitted"}}'
        head = f"HTTP/1.1 {status} No\r\ncontent-type: application/json\r\ncontent-length: {len(said)}\r\n\r\n"
        await conversation.send(head.encode() + (said if at_once else said[:20]))
        if not at_once:
            await asyncio.sleep(0.02)  # so that it comes in two
            await conversation.send(said[20:])

    async with fleet(script, about=ON, cards=CARDS) as f:
        for _ in range(2):
            answer = await (await f.client()).post(PATH, STREAM)
            assert (answer.status, text(answer)) == (200, whole_text(12))
        assert len(f.instances[0].received) == 3, "not asked again"


async def test_an_instance_that_is_lost_has_not_failed_an_answer_that_lacked_its_end_alone(fleet):
    server = Server(*FINISHED)
    async with fleet(server, server, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), PATH, STREAM, server.numbered)
        assert text(answer) == whole_text(12)
        place = int(answer.headers["x-dualmap-instance"][1:])
        f.apply(f.member(1 - place, model_cards=CARDS))
        assert [told.failed for told in f.gateway.driver.carried.take_lost()] in ([], [0])
