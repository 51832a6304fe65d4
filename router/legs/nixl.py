"""Two legs as vLLM's NixlConnector wants them, one after the other: the instance that answers pulls the computed prompt
from the one that has computed it, which tells where it is in the field `kv_transfer_params` of its answer."""

import msgspec
from msgspec import Raw

from dualmap.router.legs.answer_body import decode_answer
from dualmap.router.legs.split_body import Fields

_NAME = "kv_transfer_params"
_ASKING = Raw(
    b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,'
    b'"remote_host":null,"remote_port":null}'
)
_ONE, _FALSE = Raw(b"1"), Raw(b"false")
# Of the answer that nobody sees: it has one token, and is no stream.
_DROPPED = frozenset({"stream_options", "min_tokens", "min_completion_tokens", "return_token_ids"})


def prefill_body(fields: Fields) -> bytes:
    """Of the prefill leg. fields: of the request."""
    asked = {name: value for name, value in fields.items() if name not in _DROPPED}
    asked |= {"stream": _FALSE, "max_tokens": _ONE, _NAME: _ASKING}
    if "max_completion_tokens" in asked:
        asked["max_completion_tokens"] = _ONE
    return msgspec.json.encode(asked)


def params_of(answer: bytes) -> bytes:
    """Where the computed prompt is, as the answer to the prefill leg says; empty where it does not."""
    try:
        params = bytes(decode_answer(answer).kv_transfer_params)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return b""
    return params if params.startswith(b"{") else b""


def decode_body(body: bytes, params: bytes) -> bytes:
    """Of the decode leg. body: an object with fields."""
    brace = body.index(b"{") + 1
    return b'%b"%b":%b,%b' % (body[:brace], _NAME.encode(), params, body[brace:])
