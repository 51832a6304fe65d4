"""Two legs as vLLM's NixlConnector wants them, one after the other: the instance that answers pulls the computed prompt
from the one that has computed it, which tells where it is in the field `kv_transfer_params` of its answer."""

import msgspec

from dualmap.router.apis.usage import NO_USAGE, peek_usage, usage_of
from dualmap.router.legs.answer_body import decode_answer
from dualmap.router.legs.bootstrap import Bootstrap
from dualmap.router.legs.connector import Connector
from dualmap.router.legs.handoff import Handoff
from dualmap.scheduler.commands import Dispatch

_LEND = (
    b'{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,'
    b'"remote_host":null,"remote_port":null}'
)
_NAMED = b'"kv_transfer_params":{'  # in a text its quotes would be escaped


class Nixl(Connector):
    """See Connector."""

    def __init__(self) -> None:
        self.nothing_told = (
            "its answer to a prefill leg has no kv_transfer_params, so that prompts are computed twice: is its server"
            " started with --kv-transfer-config?"
        )

    def lend(self, dispatch: Dispatch) -> bytes:
        return _LEND

    def hand_over(self, dispatch: Dispatch, answer: bytes, source: Bootstrap | None) -> Handoff:
        at = answer.rfind(_NAMED)
        if at >= 0:
            params = _last_object(answer, at + len(_NAMED) - 1)
            if params and (usage := peek_usage(answer[:at])) is not NO_USAGE:
                return Handoff(dispatch, params, usage)
        try:
            told = decode_answer(answer)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Handoff(dispatch, b"", peek_usage(answer))
        raw = bytes(told.kv_transfer_params)
        usage = NO_USAGE if told.usage is None else usage_of(told.usage)
        return Handoff(dispatch, raw if raw.startswith(b"{") else b"", usage)


def _last_object(answer: bytes, brace: int) -> bytes:
    """The object that begins there, if there is no other one in it, and nothing behind it, as vLLM writes it: nothing
    of it need be read. Else empty."""
    end = answer.find(b"}", brace)
    if end != len(answer) - 2 or not answer.endswith(b"}") or answer.find(b"{", brace + 1) >= 0:
        return b""
    return answer[brace : end + 1]
