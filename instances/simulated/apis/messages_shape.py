"""The answers and events of /v1/messages, as vLLM makes them of a chat's."""

import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from dualmap.instances.simulated.answer import chunked
from dualmap.instances.simulated.generation import Generation

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta",'
    b'"delta":{"type":"text_delta","text":"%b"},"index":0}\n\n'
)


class MessagesShape:
    content_type = b"application/json"

    def __init__(self, generation: Generation) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self._generation = generation
        self._started = False

    def opening(self) -> bytes:
        return b""

    def first(self, index: int) -> bytes:
        self._started = True
        return self._start() + _event("content_block_start", content_block={"type": "text", "text": ""}, index=0)

    def token(self, index: int, text: bytes, produced: Sequence[int]) -> bytes:
        return chunked(DELTA % text) if text else b""

    def last(self, index: int, text: bytes, produced: Sequence[int], reason: str) -> bytes:
        if not produced[index]:
            return b""
        return self.token(index, text, produced) + _event("content_block_stop", index=0)

    def ending(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        delta = {"stop_reason": STOP_REASONS.get(reasons[0]), "stop_sequence": None}
        start = b"" if self._started else self._start()
        return start + _event("message_delta", delta=delta, usage=self._usage(produced[0])) + _event("message_stop")

    def plain(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        text = self._generation.choices[0].text(produced[0])
        message = self._message([{"type": "text", "text": text}])
        if reasons[0] in STOP_REASONS:
            message["stop_reason"] = STOP_REASONS[reasons[0]]
        message["usage"] = self._usage(produced[0])
        if self._generation.lent is not None:
            message["kv_transfer_params"] = self._generation.lent
        return msgspec.json.encode(message)

    def _start(self) -> bytes:
        """What was cached is not told here: `input_tokens` are those of the whole prompt."""
        usage = {"input_tokens": self._generation.prompt_tokens, "output_tokens": 0}
        return _event(
            "message_start",
            message=self._message([]) | {"stop_reason": None, "stop_sequence": None, "usage": usage},
        )

    def _message(self, content: list[dict[str, str]]) -> dict[str, Any]:
        model = self._generation.model
        return {"id": self.id, "type": "message", "role": "assistant", "content": content, "model": model}

    def _usage(self, produced: int) -> dict[str, int]:
        """`input_tokens` are those that were neither found in the cache nor put there."""
        generation = self._generation
        read, created = generation.cached_tokens, generation.created_cache_tokens
        return {
            "input_tokens": max(0, generation.prompt_tokens - read - created),
            "output_tokens": produced,
            "cache_creation_input_tokens": created,
            "cache_read_input_tokens": read,
        }


def _event(kind: str, **fields: Any) -> bytes:
    return chunked(b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode({"type": kind} | fields)))
