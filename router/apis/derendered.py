"""What is left of a chat whose answer the server's parsers read, asked of another instance: `/v1/completions` goes on
by token ids and gives raw text; its ids become the chat's chunks by vLLM's `/v1/chat/completions/derender`, which
builds the parsers' state from all ids of the answer, in the groups in which they came."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from dualmap.router.apis.rest_chunks import RestChunks
from dualmap.router.apis.stop_strings import read_stops
from dualmap.router.apis.stream_event import read_event
from dualmap.router.apis.token_ids import TokenIds

TARGET = b"/v1/chat/completions/derender"


class Piece(msgspec.Struct, gc=False):
    """Some of a completion, as far as it is not text. token_ids: JSON."""

    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: Raw = Raw(b"null")

    @property
    def ids(self) -> list[bytes]:
        told = bytes(self.token_ids)[1:-1]
        return [] if self.token_ids == b"null" or not told else told.split(b",")


class _Completion(msgspec.Struct, gc=False):
    choices: list[Piece]


class _Choice(msgspec.Struct, gc=False):
    delta: dict[str, Any]
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    token_ids: Raw = Raw(b"[]")


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice]


class _Told(msgspec.Struct, gc=False):
    chunk: _Chunk
    stream_state: Raw


def read_piece(event: bytes) -> Piece:
    """Raises msgspec.MsgspecError, IndexError."""
    return msgspec.json.decode(read_event(event)[1], type=_Completion).choices[0]


def why_not_derendered(fields: Mapping[str, Any]) -> str:
    """Why a chat's further ids do not become the chunks that it would have had; empty where they do."""
    if "messages" not in fields:
        return "its request is not kept"
    if read_stops(fields.get("stop")):
        return "it has stop strings"
    if fields.get("include_reasoning") is False:
        return "it hides its reasoning"  # and the ids of all of it
    if not fields.get("tools"):
        return ""
    if fields.get("tool_choice") not in (None, "auto", "none"):
        return "its output is structured"
    # A grammar is lost with its instance.
    if fields.get("parallel_tool_calls") is False or any(map(_is_strict, fields["tools"])):
        return "its calls of tools are structured"
    return ""


def _is_strict(tool: Any) -> bool:
    function = tool.get("function") if isinstance(tool, dict) else None
    return not isinstance(function, dict) or bool(function.get("strict"))


class Derender:
    """Makes the requests, one after the other, that turn further ids into chunks."""

    def __init__(self, fields: Mapping[str, Any], ids: TokenIds) -> None:
        """fields: of the chat. ids: of the answer so far, all of which are known to the client."""
        self._shows_stop = fields.get("include_stop_str_in_output") is True
        groups = ids.groups
        self._state = b'{"role_sent":true,"tools_streamed":%b,"output_token_ids":[%b],"output_chunk_lens":%b}' % (
            b"true" if ids.calls else b"false",
            b",".join(groups),
            msgspec.json.encode([group.count(b",") + 1 for group in groups]),
        )
        about = msgspec.json.encode({"stream": True, "chat_request": fields} | _model(fields))[:-1]
        self._head = b'%b,"prompt_token_ids":[%b]' % (about, ids.prompt)

    def ask(self, pieces: Sequence[Piece]) -> bytes:
        """The body of the request for what the client gets of these. The token with which an answer stops has no text,
        other than a special token that its parsers may look for."""
        last = pieces[-1]
        tokens = [token for piece in pieces for token in piece.ids]
        if last.finish_reason == "stop" and not self._shows_stop:
            tokens = tokens[:-1]
        ending = msgspec.json.encode({"finish_reason": last.finish_reason, "stop_reason": last.stop_reason})[1:]
        choice = b'{"index":0,"token_ids":[%b],%b' % (b",".join(tokens), ending)
        chunk = b'{"request_id":"rest","choices":[%b]}' % choice
        return b'%b,"stream_state":%b,"generate_chunk":%b}' % (self._head, self._state, chunk)

    def told(self, body: bytes, pieces: Sequence[Piece]) -> bytes:
        """The event that it becomes, for DerenderedChunks. body: of the answer. Raises msgspec.MsgspecError,
        IndexError."""
        told = msgspec.json.decode(body, type=_Told)
        choice = told.chunk.choices[0]
        self._state = bytes(told.stream_state)
        delta = choice.delta
        choice.delta = {name: value for name, value in delta.items() if value not in (None, []) and name != "role"}
        choice.token_ids = Raw(b"[%b]" % b",".join(token for piece in pieces for token in piece.ids))
        return b"data: %b\n\n" % msgspec.json.encode(told.chunk)


def _model(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": fields["model"]} if fields.get("model") is not None else {}


class DerenderedChunks(RestChunks):
    """Of a chat, from events of Derender.told."""

    def piece(self, event: bytes) -> bytes:
        choice = msgspec.json.decode(read_event(event)[1], type=_Chunk).choices[0]
        ids = bytes(choice.token_ids)[1:-1]
        self._ids.add(ids, True)
        delta = choice.delta
        self._ids.calls |= "tool_calls" in delta
        self.tokens += ids.count(b",") + 1 if ids else 0
        self.finished |= choice.finish_reason is not None
        if not delta and choice.finish_reason is None and self._ids.hides:
            return b""
        for call in delta.get("tool_calls", ()):
            _leave_out_none(call)
        shown: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": choice.finish_reason}
        if choice.finish_reason is not None:
            shown["stop_reason"] = choice.stop_reason
        shown["token_ids"] = None if self._ids.hides else choice.token_ids
        return self._event({"choices": [shown]} | ({"usage": self._usage()} if self.wants_usages else {}))


def _leave_out_none(fields: dict[str, Any]) -> None:
    for name, value in list(fields.items()):
        if value is None:
            del fields[name]
        elif isinstance(value, dict):
            _leave_out_none(value)
