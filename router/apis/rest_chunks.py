"""The chunks of a completion, as those with which a stream goes on that another instance began: the client sees one
answer, with one id and the usage of all of it."""

from typing import Any

import msgspec
from msgspec import Raw

from dualmap.router.apis.chunk_stream import DONE
from dualmap.router.apis.stop_strings import StopStrings
from dualmap.router.apis.stream_event import read_event
from dualmap.router.apis.token_ids import TokenIds

_CHAT = "chat.completion.chunk"


class _Begun(msgspec.Struct, gc=False):
    """The first chunk of an answer. usage: an instance that tells it there tells it with each chunk."""

    id: str
    created: int
    model: str
    object: str
    usage: dict[str, Any] | None = None


class _Choice(msgspec.Struct, gc=False):
    text: str
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: Raw = Raw(b"null")


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice]
    usage: dict[str, Any] | None = None
    system_fingerprint: str | None = None


class RestChunks:
    """finished: the answer has its finish reason. stops: the stop strings that it may end with; set before the first
    chunk. tokens: of the answer so far. is_stopped: it has ended with a stop string, of which its instance does not
    know. usage_mark: what a chunk with nothing but the usage has."""

    usage_mark = b'"choices":[],"usage":{'

    def __init__(self, ids: TokenIds, wants_usage: bool, wants_usages: bool) -> None:
        """ids: of the answer so far; those of the rest are added. wants_usage: the client asked for an event with the
        usage. wants_usages: with each chunk. Raises msgspec.MsgspecError where its first chunk cannot be read."""
        self.finished = self.is_stopped = False
        self.stops: StopStrings | None = None
        self.wants_usage, self.wants_usages = wants_usage, wants_usages
        self.tokens = ids.seen_tokens
        self._ids = ids
        self._told_tokens = 0  # of the rest, by their ids
        self._begin(read_event(ids.first)[1])

    def _begin(self, chunk: bytes) -> None:
        """chunk: the first one of the answer. Raises msgspec.MsgspecError."""
        self._begun = begun = msgspec.json.decode(chunk, type=_Begun)
        self.wants_usage |= begun.usage is not None
        self.wants_usages |= begun.usage is not None

    def piece(self, event: bytes) -> bytes:
        """A chunk with some of the answer, as the client gets it. Raises msgspec.MsgspecError."""
        chunk = msgspec.json.decode(read_event(event)[1], type=_Chunk)
        choice = chunk.choices[0]
        told = bytes(choice.token_ids)
        ids = told[1:-1] if told.startswith(b"[") else b""
        self._ids.add(ids, bool(choice.text))
        if self.stops is not None:
            choice.text, stop = self.stops.feed(choice.text, last=choice.finish_reason is not None)
            if stop is not None:
                choice.finish_reason, choice.stop_reason, self.is_stopped = "stop", stop, True
        tokens = ids.count(b",") + 1 if ids else 0
        self.tokens += tokens
        self._told_tokens += tokens
        is_chat = self._begun.object == _CHAT
        shown: dict[str, Any] = {"index": 0}
        shown |= {"delta": {"content": choice.text}} if is_chat else {"text": choice.text}
        shown |= {"logprobs": None, "finish_reason": choice.finish_reason}
        if choice.finish_reason is not None or not is_chat:
            shown["stop_reason"] = choice.stop_reason
        if not is_chat:
            shown["prompt_token_ids"] = None
        shown["token_ids"] = None if self._ids.hides else choice.token_ids
        self.finished |= choice.finish_reason is not None
        more: dict[str, Any] = {"choices": [shown]}
        if self.wants_usages:
            more["usage"] = self._usage()
        if chunk.system_fingerprint is not None:
            more["system_fingerprint"] = chunk.system_fingerprint
        return self._event(more)

    def usage(self, event: bytes = b"") -> tuple[bytes, bytes]:
        """A chunk with the usage of the whole answer: to read, and what the client gets of it. event: the one with that
        of the rest, if one has come."""
        more: dict[str, Any] = {"choices": [], "usage": self._usage()}
        if event:
            chunk = msgspec.json.decode(read_event(event)[1], type=_Chunk)
            made = chunk.usage.get("completion_tokens") if chunk.usage else None
            if isinstance(made, int) and not self._ids.known:
                self.tokens += made - self._told_tokens
                self._told_tokens = made
                more["usage"] = self._usage()
            if chunk.system_fingerprint is not None:
                more["system_fingerprint"] = chunk.system_fingerprint
        whole = self._event(more)
        return whole, whole if self.wants_usage else b""

    def ending(self, tail: bytes) -> bytes:
        """What ends the stream behind the chunk with the finish reason, which is in the tail."""
        self._ids.go_on(behind_all=True)
        self.tokens = self._ids.seen_tokens
        usage = self.wants_usage and self.usage_mark not in tail
        return (self.usage()[1] if usage else b"") + DONE

    def _usage(self) -> dict[str, int]:
        prompt = self._ids.prompt_tokens
        return {"prompt_tokens": prompt, "total_tokens": prompt + self.tokens, "completion_tokens": self.tokens}

    def _event(self, more: dict[str, Any]) -> bytes:
        begun = self._begun
        head = {"id": begun.id, "object": begun.object, "created": begun.created, "model": begun.model}
        return b"data: %b\n\n" % msgspec.json.encode(head | more)
