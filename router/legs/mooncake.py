"""Two legs as vLLM's MooncakeConnector wants them: the instance that answers names the transfer to the one that
computes the prompt, which pushes it.

Both legs bear the transfer's name. What the instance that answers has to know of the other one, no answer says: its
bootstrap server does. The legs run one after the other (docs/decisions/0033): what was computed is kept until it is
asked for, for VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT at most.
"""

import msgspec

from dualmap.router.apis.usage import NO_USAGE, usage_of
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.legs.answer_body import decode_ended
from dualmap.router.legs.bootstrap import Bootstrap
from dualmap.router.legs.connector import Connector
from dualmap.router.legs.handoff import Handoff
from dualmap.scheduler.commands import Dispatch

BOOTSTRAP_PORT = 8998  # VLLM_MOONCAKE_BOOTSTRAP_PORT


class Mooncake(Connector):
    """See Connector. bootstrap_port: of servers whose endpoint names no other one."""

    def __init__(self, bootstrap_port: int = BOOTSTRAP_PORT) -> None:
        self.needs_rank = self.read_by_itself = self.waits_for_the_lost = True
        self.nothing_told = (
            "it has kept no prompt for the decode leg, so that the prompt is computed twice: its first token has ended"
            " the answer, or its bootstrap server knows its engine no more"
        )
        self._bootstrap_port = bootstrap_port
        self._bootstraps: dict[str, Bootstrap] = {}  # by instance

    def source(self, pool: UpstreamPool) -> Bootstrap | None:
        known = self._bootstraps.get(pool.instance_id)
        if known is None or known.pool is not pool:
            self._bootstraps = {i: other for i, other in self._bootstraps.items() if not other.pool.closed}
            known = self._bootstraps[pool.instance_id] = Bootstrap(pool, self._bootstrap_port)
        return known

    def lend(self, dispatch: Dispatch) -> bytes:
        return b'{"do_remote_decode":true,"do_remote_prefill":false,"transfer_id":"%b"}' % _transfer_id(dispatch)

    def hand_over(self, dispatch: Dispatch, answer: bytes, source: Bootstrap | None) -> Handoff:
        """An answer that ended otherwise than by its length leaves nothing, and who asks for that waits in vain for
        as long as the transfer may take."""
        try:
            told = decode_ended(answer)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Handoff(dispatch, b"", NO_USAGE)
        usage = NO_USAGE if told.usage is None else usage_of(told.usage)
        if source is None or not source.engine_id or not told.by_length:
            return Handoff(dispatch, b"", usage)
        cached_tokens = usage.cached_tokens
        params = b"".join(
            (
                b'{"do_remote_prefill":true,"do_remote_decode":false,"transfer_id":"',
                _transfer_id(dispatch),
                b'","remote_bootstrap_addr":"',
                source.address,
                b'","remote_engine_id":',
                source.engine_id,
                b"}" if cached_tokens is None else b',"remote_prefill_cached_tokens":%d}' % cached_tokens,
            )
        )
        return Handoff(dispatch, params, usage)


def _transfer_id(dispatch: Dispatch) -> bytes:
    """Of no other attempt, whichever gateway's."""
    return f"xfer-{dispatch.request_id}-{dispatch.attempt}".encode()
