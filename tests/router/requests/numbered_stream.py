"""A scripted instance as far as streams go on elsewhere: it answers chats and completions as vLLM spells them, and the
text of its k-th token tells k, so that a token that is lost or comes twice is seen."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from tests.router.conftest import STREAM, Answer, Client, Conversation, post

PROMPT = [11, 12, 13]  # of any chat or text
FIRST_ID = 1000  # of the token 0 of an answer; that of token k is k more

Act = Callable[[Conversation], Awaitable[None]]


def whole_text(tokens: int) -> str:
    return "".join(f" t{token}" for token in range(tokens))


async def dies(conversation: Conversation) -> None:
    conversation.reset()


async def hangs(conversation: Conversation) -> None:
    await conversation.closed_by_gateway()


async def aborts(conversation: Conversation) -> None:
    await conversation.send_event('{"choices":[{"index":0,"delta":{},"text":"","finish_reason":"abort"}]}')
    await conversation.send_event("[DONE]")
    await conversation.end_stream()


async def fails(conversation: Conversation) -> None:
    await conversation.send_event('{"error":{"message":"died","type":"InternalServerError","param":null,"code":500}}')
    await conversation.send_event("[DONE]")
    await conversation.end_stream()


def spelled(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


class Numbered:
    """tokens: of each answer, unless the request wants fewer. per_chunk: how many come at once. token_bytes: of some
    tokens, by number, where they are others. fail_at: how many tokens an answer gives before the act, by its place
    among all answers; those that are not named are whole. seen: how many events the client has, which acts wait for.
    tells_ids: where it is asked for them. asked: bodies of requests for answers."""

    def __init__(self, tokens: int = 12, *, tells_ids: bool = True) -> None:
        self.tokens = tokens
        self.per_chunk = 1
        self.token_bytes: dict[int, bytes] = {}
        self.fail_at: dict[int, tuple[int, Act]] = {}
        self.seen: Callable[[], int] = lambda: 1 << 30
        self.tells_ids = tells_ids
        self.asked: list[dict[str, Any]] = []
        self.detokenized = 0

    async def __call__(self, conversation: Conversation) -> None:
        body = conversation.request.json
        if "/detokenize" in conversation.request.line:
            self.detokenized += 1
            await conversation.send_json(
                {"prompt": b"".join(map(self._bytes_of, body["tokens"])).decode(errors="replace")}
            )
            return
        place = len(self.asked)
        self.asked.append(body)
        await Answering(self, conversation, body, place).run(*self.fail_at.get(place, (None, dies)))

    def _bytes_of(self, token_id: int) -> bytes:
        if token_id < FIRST_ID:
            return b"p"
        return self.token_bytes.get(token_id - FIRST_ID, b" t%d" % (token_id - FIRST_ID))

    def bytes_of(self, number: int) -> bytes:
        return self._bytes_of(FIRST_ID + number)


class Answering:
    """One answer."""

    def __init__(self, instance: Numbered, conversation: Conversation, body: dict[str, Any], place: int) -> None:
        self._instance = instance
        self._conversation = conversation
        self._is_chat = "chat" in conversation.request.line
        self._prompt = body["prompt"] if isinstance(body.get("prompt"), list) else PROMPT
        self._first = len(self._prompt) - len(PROMPT)
        most = body.get("max_tokens") or body.get("max_completion_tokens") or instance.tokens
        self._end = min(instance.tokens, self._first + most)
        self._ids = instance.tells_ids and body.get("return_token_ids") is True
        options = body.get("stream_options") or {}
        self._usages = options.get("continuous_usage_stats")
        self._usage_at_end = options.get("include_usage")
        kind, name = ("chat.completion.chunk", "chatcmpl") if self._is_chat else ("text_completion", "cmpl")
        self._head = {"id": f"{name}-{place}", "object": kind, "created": 1700 + place, "model": "tiny"}
        stop = body.get("stop") or []
        self._stops = [stop] if isinstance(stop, str) else stop
        self._included = body.get("include_stop_str_in_output") is True
        self._bytes = b""  # part of a character: vLLM keeps back all text from there
        self._text = ""
        self._shown = 0
        self._made = 0
        self._is_first = True

    async def run(self, fail_at: int | None, act: Act) -> None:
        conversation = self._conversation
        await conversation.begin_stream()
        events = 0
        if self._is_chat:
            await conversation.send_event(self._chunk({"role": "assistant", "content": ""}, None, None, None))
            events = 1
        number = self._first
        reason: str | None = None
        while reason is None:
            if self._made == fail_at:
                while self._instance.seen() < events:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await act(conversation)
                return
            ids = []
            stop = None
            for _ in range(self._instance.per_chunk):
                ids.append(FIRST_ID + number)
                stop = self._add(self._instance.bytes_of(number))
                number += 1
                self._made += 1
                if stop is not None or number == self._end:
                    reason = "stop" if stop is not None or self._end == self._instance.tokens else "length"
                    break
                if self._made == fail_at:
                    break
            await conversation.send_event(self._chunk(self._new_text(reason is not None), reason, stop, ids))
            events += 1
        if self._usage_at_end:
            await conversation.send_event(spelled(self._head | {"choices": [], "usage": self._usage()}))
        await conversation.send_event("[DONE]")
        await conversation.end_stream()

    def _add(self, token: bytes) -> str | None:
        """The stop string that it completes."""
        self._bytes += token
        try:
            self._text += self._bytes.decode()
            self._bytes = b""
        except UnicodeDecodeError:
            return None
        found = [(self._text.find(stop) + len(stop), stop) for stop in self._stops if stop in self._text]
        if not found:
            return None
        end, stop = min(found, key=lambda one: one[0])
        self._text = self._text[: end if self._included else end - len(stop)]
        return stop

    def _new_text(self, last: bool) -> str:
        kept = 0 if last or self._included or not self._stops else max(map(len, self._stops)) - 1
        until = max(self._shown, len(self._text) - kept)
        new = self._text[self._shown : until]
        self._shown = until
        return new

    def _chunk(self, delta: Any, reason: str | None, stop: str | None, ids: list[int] | None) -> str:
        first, self._is_first = self._is_first, False
        prompt = self._prompt if self._ids and first else None
        if self._is_chat:
            choice: dict[str, Any] = {"index": 0, "delta": {"content": delta} if isinstance(delta, str) else delta}
        else:
            choice = {"index": 0, "text": delta}
        choice |= {"logprobs": None, "finish_reason": reason}
        if reason is not None or not self._is_chat:
            choice["stop_reason"] = stop
        if not self._is_chat:
            choice["prompt_token_ids"] = prompt
        if ids is not None:
            choice["token_ids"] = ids if self._ids else None
        chunk = self._head | {"choices": [choice]}
        if self._usages:
            chunk["usage"] = self._usage()
        if self._is_chat and ids is None:
            chunk["prompt_token_ids"] = prompt
        return spelled(chunk)

    def _usage(self) -> dict[str, int]:
        prompt = len(self._prompt)
        return {"prompt_tokens": prompt, "total_tokens": prompt + self._made, "completion_tokens": self._made}


ON = {"max_continuations": 2}
CARDS = ({"id": "tiny", "max_model_len": 100},)
TEXT = {"model": "tiny", "prompt": "hi", "stream": True, "max_tokens": 50}
WAYS = {"chat": ("/v1/chat/completions", STREAM), "completions": ("/v1/completions", TEXT)}
COMMENT = b": keep-alive\n\n"


async def ask(client: Client, path: str, body: Any, numbered: Numbered) -> Answer:
    """The whole answer; the instances know how many events of it the client has."""
    got = b""
    numbered.seen = lambda: got.count(b"\n\n")
    await client.send(post(path, body))
    answer = await client.answer_head()
    while chunk := await client.chunk():
        if chunk != COMMENT:
            got += chunk
            answer.chunks.append(chunk)
    answer.body = got
    return answer


def events(answer: Answer) -> list[Any]:
    data = [line.removeprefix("data: ") for line in answer.body.decode().split("\n\n") if line]
    assert data.pop() == "[DONE]"
    return [json.loads(event) for event in data]


def text(answer: Answer) -> str:
    parts = [choice for event in events(answer) for choice in event.get("choices", ())]
    return "".join(part["delta"].get("content", "") if "delta" in part else part["text"] for part in parts)


async def undisturbed(fleet, path: str, body: Any, like: Numbered | None = None) -> Answer:
    numbered = Numbered()
    if like is not None:
        numbered.tokens, numbered.per_chunk, numbered.token_bytes = like.tokens, like.per_chunk, like.token_bytes
    async with fleet(numbered, cards=CARDS) as f:  # it is asked for no ids
        return await (await f.client()).post(path, body)


def last_error(answer: Answer) -> dict[str, Any]:
    error: dict[str, Any] = events(answer)[-1]["error"]
    return error
