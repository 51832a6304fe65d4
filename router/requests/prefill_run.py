"""The prefill leg of a request: its answer goes to nobody but the decode leg."""

from dualmap.router.apis.usage import NO_USAGE, peek_usage
from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.legs.handoff import Handoff
from dualmap.router.legs.nixl import params_of, prefill_body
from dualmap.router.requests.answer_writer import AnswerWriter
from dualmap.router.requests.running import OK_STATUS, Carrier, Running
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause

MOST_BYTES = 1024 * 1024  # of an answer of one token
NOTHING_TOLD = (
    "its answer to a prefill leg has no kv_transfer_params, so that prompts are computed twice: is its server started"
    " with --kv-transfer-config?"
)


class PrefillRun(Running):
    """handoff: what it leaves, once the answer is complete. An error goes the way of any attempt's."""

    __slots__ = ("_got", "handoff")

    def __init__(
        self, carrier: Carrier, writer: AnswerWriter, dispatch: Dispatch, pool: UpstreamPool, now: float
    ) -> None:
        super().__init__(carrier, writer, dispatch, pool, now)
        self.body = prefill_body(self.body)
        self.handoff = Handoff(dispatch, b"", NO_USAGE)
        self._got: list[bytes] = []

    def relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        if head.status != OK_STATUS or head.html:
            super().relay(body, pieces, head, complete)
            return
        self._got.append(body)
        if sum(map(len, self._got)) > MOST_BYTES:
            self._give_up(FailureCause.BROKEN)

    def answer_complete(self, head: AnswerHead) -> None:
        if head.status != OK_STATUS:
            super().answer_complete(head)
            return
        self.upstream = None
        answer = b"".join(self._got)
        self.handoff = Handoff(self.dispatch, params_of(answer), peek_usage(answer))
        if not self.handoff.params:
            self._pool.warn(NOTHING_TOLD)
        self._carrier.prefilled(self, self.handoff)
