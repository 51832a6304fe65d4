"""A scripted instance as far as streams go on elsewhere: it answers chats and completions as vLLM spells them, and the
text of its k-th token tells k, so that a token that is lost or comes twice is seen."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from tests.router.conftest import Conversation

PROMPT = [11, 12, 13]  # of any chat or text
FIRST_ID = 1000  # of the token 0 of an answer; that of token k is k more

Act = Callable[[Conversation], Awaitable[None]]


def text_of(token: int) -> str:
    return f" t{token}"


def whole_text(tokens: int) -> str:
    return "".join(map(text_of, range(tokens)))


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
    """tokens: of each answer, unless the request wants fewer. fail_at: how many tokens an answer gives before the act,
    by its place among all answers; those that are not named are whole. seen: how much the client has, which acts wait
    for. tells_ids: where it is asked for them. texts: of some tokens, by number, where they are others."""

    def __init__(self, tokens: int = 12, tells_ids: bool = True) -> None:
        self.tokens = tokens
        self.fail_at: dict[int, tuple[int, Act]] = {}
        self.tells_ids = tells_ids
        self.texts: dict[int, str] = {}
        self.per_chunk = 1
        self.seen: Callable[[], int] = lambda: self.tokens
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, conversation: Conversation) -> None:
        body = conversation.request.json
        place = len(self.asked)
        self.asked.append(body)
        fail_at, act = self.fail_at.get(place, (None, None))
        is_chat = "chat" in conversation.request.line
        prompt = body["prompt"] if isinstance(body.get("prompt"), list) else PROMPT
        first = len(prompt) - len(PROMPT)
        most = body.get("max_tokens") or body.get("max_completion_tokens") or self.tokens
        stop = min(self.tokens, first + most)
        self._begin(place, body, is_chat, prompt)
        await conversation.begin_stream()
        if is_chat:
            await conversation.send_event(self._chunk({"role": "assistant", "content": ""}, None))
        made = 0
        for number in range(first, stop, self.per_chunk):
            if made == fail_at and act is not None:
                while self.seen() < number:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await act(conversation)
                return
            ids = range(number, min(number + self.per_chunk, stop))
            text = "".join(self.texts.get(k, text_of(k)) for k in ids)
            made += len(ids)
            last = ids[-1] == stop - 1
            reason = ("length" if stop < self.tokens else "stop") if last else None
            delta = {"content": text} if is_chat else text
            await conversation.send_event(self._chunk(delta, reason, [FIRST_ID + k for k in ids], made))
        options = body.get("stream_options") or {}
        if options.get("include_usage"):
            usage = {"usage": self._usage(made)}
            await conversation.send_event(spelled(self._head | {"choices": []} | usage))
        await conversation.send_event("[DONE]")
        await conversation.end_stream()

    def _begin(self, place: int, body: dict[str, Any], is_chat: bool, prompt: list[int]) -> None:
        self._is_chat = is_chat
        self._prompt = prompt
        self._first = True
        self._ids = self.tells_ids and body.get("return_token_ids") is True
        options = body.get("stream_options") or {}
        self._usages = options.get("continuous_usage_stats")
        kind, name = ("chat.completion.chunk", "chatcmpl") if is_chat else ("text_completion", "cmpl")
        self._head = {"id": f"{name}-{place}", "object": kind, "created": 1700 + place, "model": "tiny"}

    def _chunk(self, delta: Any, reason: str | None, ids: list[int] | None = None, made: int = 0) -> str:
        told = ids if self._ids else None
        first, self._first = self._first, False
        prompt = self._prompt if self._ids and first else None
        choice: dict[str, Any] = {"index": 0} | ({"delta": delta} if self._is_chat else {"text": delta})
        choice |= {"logprobs": None, "finish_reason": reason}
        if reason is not None or not self._is_chat:
            choice["stop_reason"] = None
        if not self._is_chat:
            choice |= {"prompt_token_ids": prompt}
        if ids is not None:
            choice["token_ids"] = told
        chunk = self._head | {"choices": [choice]}
        if self._usages:
            chunk |= {"usage": self._usage(made)}
        if self._is_chat and ids is None:
            chunk |= {"prompt_token_ids": prompt}
        return spelled(chunk)

    def _usage(self, made: int) -> dict[str, Any]:
        prompt = len(self._prompt)
        return {"prompt_tokens": prompt, "total_tokens": prompt + made, "completion_tokens": made}
