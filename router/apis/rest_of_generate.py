"""What is left of a stream of `/inference/v1/generate`, asked of another instance by the same API: its prompt is the
prompt's token ids and those of the answer so far. The client has ids alone, so that no text has to be matched."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from dualmap.router.apis.generated_ids import GeneratedIds
from dualmap.router.apis.rest_by_ids import RestByIds, lost_with_engine, why_lost
from dualmap.router.apis.rest_chunks import RestChunks
from dualmap.router.apis.stream_event import read_event
from dualmap.router.apis.token_ids import TokenIds
from dualmap.router.apis.whole_number import whole_number

_SAMPLING = "sampling_params"
# As in rest_by_ids.py: of the sampling, and of the body.
_LOST_OF_SAMPLING: Mapping[str, str] = {
    "stop": "it has stop strings",
    "extra_args": "it has `extra_args`",
    "routed_experts_prompt_start": "it tells which experts were asked",
    "trace_decode_token_ids": "it is a trace",
}
_LOST_OF_BODY: Mapping[str, str] = {
    "kv_transfer_params": "its KV cache is transferred",
    "ec_transfer_params": "its encoder cache is transferred",
}


class GenerateRest(RestByIds, frozen=True, gc=False):
    """See RestByIds."""

    @property
    def target(self) -> bytes:
        return b"/inference/v1/generate"

    def new_ids(self, hides: bool) -> TokenIds:
        return GeneratedIds(self.text, hides=False)

    def know_prompt(self, fields: Mapping[str, Any], ids: TokenIds) -> None:
        if not ids.prompt:
            with suppress(msgspec.MsgspecError):
                ids.prompt = b",".join(b"%d" % whole_number(token) for token in fields["token_ids"])

    def chunks(self, ids: TokenIds, wants_usage: bool, wants_usages: bool) -> RestChunks:
        return GenerateChunks(ids, wants_usage, wants_usages)

    def hindrance(self, fields: Mapping[str, Any], ids: TokenIds) -> str:
        if not ids.known:
            return "its instance does not tell token ids"
        sampling = fields[_SAMPLING]
        if fields.get("output_mode") not in (None, "tokens"):
            return "it has texts beside its ids"
        if (sampling.get("n") or 1) != 1:
            return "it has several choices"
        lost = why_lost(_LOST_OF_BODY, fields) or why_lost(_LOST_OF_SAMPLING, sampling)
        return lost or lost_with_engine(sampling)

    def parsed(self, fields: Mapping[str, Any], ids: TokenIds) -> str:
        return ""

    def tokens_left(self, fields: Mapping[str, Any], ids: TokenIds, context_tokens: int) -> int | None:
        return super().tokens_left(fields[_SAMPLING], ids, context_tokens)

    def body(self, fields: Mapping[str, Any], ids: TokenIds, tokens_left: int) -> bytes:
        sampling = {**fields[_SAMPLING], "max_tokens": tokens_left}
        if least := sampling.get("min_tokens"):
            sampling["min_tokens"] = max(0, whole_number(least) - ids.seen_tokens)
        asked = {name: value for name, value in fields.items() if name not in ("token_ids", "return_token_ids")}
        asked |= {_SAMPLING: sampling, "stream": True, "stream_options": {"include_usage": True}}
        return b'{"token_ids":[%b],%b' % (b",".join((ids.prompt, *ids.seen)), msgspec.json.encode(asked)[1:])


class _Begun(msgspec.Struct, gc=False):
    request_id: str


class _Choice(msgspec.Struct, gc=False):
    token_ids: list[int] | None
    finish_reason: str | None
    routed_experts: None = None  # those of the prompt are told, too, of which the answer so far is part


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice]


class _Span(msgspec.Struct, gc=False):
    start: int
    end: int


class GenerateChunks(RestChunks):
    """See RestChunks."""

    usage_mark = b'"choices":[]'

    def _begin(self, chunk: bytes) -> None:
        self._id = msgspec.json.decode(chunk, type=_Begun).request_id
        self._sent_tokens = self.tokens

    def piece(self, event: bytes) -> bytes:
        choice = msgspec.json.decode(read_event(event)[1], type=_Chunk).choices[0]
        ids = choice.token_ids or ()
        self._ids.add(b",".join(b"%d" % token for token in ids), bool(ids))
        self.tokens += len(ids)
        self.finished |= choice.finish_reason is not None
        chunk = _read(event)
        for span in chunk["choices"][0].get("weight_versions") or ():
            at = msgspec.convert(span, _Span)
            span |= {"start": at.start + self._sent_tokens, "end": at.end + self._sent_tokens}
        if self.wants_usages:
            chunk["usage"] = self._usage()
        return self._told(chunk)

    def usage(self, event: bytes = b"") -> tuple[bytes, bytes]:
        chunk = _read(event) if event else {"output_mode": "tokens", "choices": []}
        whole = self._told({**chunk, "usage": self._usage()})
        return whole, whole if self.wants_usage else b""

    def _told(self, chunk: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % msgspec.json.encode({**chunk, "request_id": self._id})


def _read(event: bytes) -> dict[str, Any]:
    """Raises msgspec.MsgspecError."""
    return msgspec.json.decode(read_event(event)[1], type=dict[str, Any])


GENERATE_REST = GenerateRest(b"", ("max_tokens",), None)
