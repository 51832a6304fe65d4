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
        try:
            told = decode_answer(answer)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Handoff(dispatch, b"", peek_usage(answer))
        params = bytes(told.kv_transfer_params)
        usage = NO_USAGE if told.usage is None else usage_of(told.usage)
        return Handoff(dispatch, params if params.startswith(b"{") else b"", usage)
