"""The answers and events of /v1/responses, as vLLM sends them for a text."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from dualmap.instances.simulated.answer import ABORTED, chunked
from dualmap.instances.simulated.chat_prompt import ChatMessage
from dualmap.instances.simulated.generation import Generation
from dualmap.instances.simulated.media import TOKEN_BYTES
from dualmap.instances.simulated.response_store import ResponseStore, StoredResponse

UNUSED = {  # fields that are always there, and of no use to a simulated server
    "max_tool_calls": None,
    "prompt": None,
    "top_logprobs": None,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ec_transfer_params": None,
    "input_messages": None,
    "output_messages": None,
}


class ResponsesShape:
    """echo: fields of the request that are repeated. store: where the response is kept when it is whole, with the
    messages that it answers; None: nowhere."""

    content_type = b"application/json"

    def __init__(
        self,
        generation: Generation,
        echo: dict[str, Any],
        store: ResponseStore | None,
        messages: tuple[ChatMessage, ...],
    ) -> None:
        self.id = f"resp_{uuid.uuid4().hex}"
        self._item_id = f"msg_{uuid.uuid4().hex}"
        self._generation = generation
        self._echo = echo
        self._store = store
        self._messages = messages
        self._created_at = int(time.time())
        self._events = 0
        place = b'"item_id":"%b","logprobs":[],"output_index":0,"sequence_number":%%d' % self._item_id.encode()
        self._delta = b'event: response.output_text.delta\ndata: {"content_index":0,"delta":"%b",'
        self._delta += place + b',"type":"response.output_text.delta"}\n\n'

    def queued(self) -> bytes:
        """The response of a request that runs in the background: it is kept from the first."""
        return msgspec.json.encode(self._kept(self._response("queued", [])))

    def opening(self) -> bytes:
        response = self._response("in_progress", [])
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def first(self, index: int) -> bytes:
        item = {"id": self._item_id, "content": [], "role": "assistant", "status": "in_progress", "type": "message"}
        part: dict[str, Any] = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
        added = self._event("response.output_item.added", item=item | {"phase": None}, output_index=0)
        return added + self._event("response.content_part.added", part=part, **self._place())

    def token(self, index: int, text: bytes, produced: Sequence[int]) -> bytes:
        if not text:
            return b""
        self._events += 1
        return chunked(self._delta % (text, self._events - 1))

    def last(self, index: int, text: bytes, produced: Sequence[int], reason: str) -> bytes:
        whole = self._text(produced[0])
        if not whole:
            return b""
        (item,) = self._output(whole)
        return b"".join(
            (
                self.token(index, text, produced),
                self._event("response.output_text.done", text=whole, logprobs=[], **self._place()),
                self._event("response.content_part.done", part=item["content"][0], **self._place()),
                self._event("response.output_item.done", item=item, output_index=0),
            )
        )

    def ending(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        return self._event("response.completed", response=self._whole(produced[0], reasons[0]))

    def plain(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        return msgspec.json.encode(self._whole(produced[0], reasons[0]))

    def _whole(self, produced: int, reason: str) -> dict[str, Any]:
        status = "incomplete" if reason == "length" else "completed"
        response = self._response(status, self._output(self._text(produced)), self._usage(produced))
        return response if reason == ABORTED else self._kept(response)

    def _kept(self, response: dict[str, Any]) -> dict[str, Any]:
        if self._store is not None:
            choice = self._generation.choices[0]
            size_bytes = choice.prompt_tokens * TOKEN_BYTES + len(choice.answer)
            engine_id = f"{self.id}-0" if response["status"] == "queued" else None
            self._store.put(StoredResponse(response, self._messages, size_bytes, engine_id))
        return response

    def _response(
        self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return {
            "id": self.id,
            "created_at": self._created_at,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self._generation.model,
            "object": "response",
            "output": output,
            "max_output_tokens": self._generation.most_tokens,
            "status": status,
            "usage": usage,
            **self._echo,
            **UNUSED,
            "kv_transfer_params": self._generation.lent,
        }

    def _text(self, produced: int) -> str:
        return self._generation.choices[0].text(produced)

    def _output(self, text: str) -> list[dict[str, Any]]:
        part: dict[str, Any] = {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
        content = [part] if text else []
        item = {"id": self._item_id, "content": content, "role": "assistant", "status": "completed", "type": "message"}
        return [item | {"phase": None}]

    def _usage(self, produced: int) -> dict[str, Any]:
        generation = self._generation
        cached = {"cached_tokens": generation.cached_tokens, "cache_write_tokens": generation.created_cache_tokens}
        reasoning = {"reasoning_tokens": 0, "tool_output_tokens": 0}
        return {
            "input_tokens": generation.prompt_tokens,
            "input_tokens_details": cached | {"input_tokens_per_turn": [], "cached_tokens_per_turn": []},
            "output_tokens": produced,
            "output_tokens_details": reasoning | {"output_tokens_per_turn": [], "tool_output_tokens_per_turn": []},
            "total_tokens": generation.prompt_tokens + produced,
        }

    def _place(self) -> dict[str, Any]:
        return {"content_index": 0, "item_id": self._item_id, "output_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = msgspec.json.encode(fields | {"sequence_number": self._events, "type": kind})
        self._events += 1
        return chunked(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))
