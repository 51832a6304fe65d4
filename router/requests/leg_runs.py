"""The two legs of a request that one instance prepares and another answers, each an attempt of its exchange."""

from dualmap.router.apis.usage import Usage, peek_usage, with_cached
from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.legs.handoff import Handoff
from dualmap.router.legs.nixl import decode_body, params_of, prefill_body
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
    """Its answer goes to nobody but the decode leg, an error the way of any attempt's."""

    __slots__ = ("_got", "_legs")

    def __init__(
        self, carrier: Carrier, writer: AnswerWriter, dispatch: Dispatch, pool: UpstreamPool, now: float
    ) -> None:
        super().__init__(carrier, writer, dispatch, pool, now)
        assert carrier.asked.fields is not None, "the request may be split"
        self.body = prefill_body(carrier.asked.fields)
        self._legs = carrier
        self._got = b""

    def relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        if head.status != OK_STATUS or head.html:
            super().relay(body, pieces, head, complete)
            return
        self._got += body
        if len(self._got) > MOST_BYTES:
            self._give_up(FailureCause.BROKEN)

    def answer_complete(self, head: AnswerHead) -> None:
        if head.status != OK_STATUS:
            super().answer_complete(head)
            return
        self.upstream = None
        handoff = Handoff(self.dispatch, params_of(self._got), peek_usage(self._got))
        if not handoff.params:
            self._pool.warn(NOTHING_TOLD)
        self._legs.prefilled(self, handoff)


class DecodeRun(Running):
    """Its instance counts all that it need not compute as cached: what was cached before, the prefill leg knows."""

    __slots__ = ("_cached", "_line")

    def __init__(
        self,
        carrier: Carrier,
        writer: AnswerWriter,
        dispatch: Dispatch,
        pool: UpstreamPool,
        now: float,
        handoff: Handoff,
    ) -> None:
        super().__init__(carrier, writer, dispatch, pool, now)
        prefilled_at = handoff.dispatch.instance_id
        if handoff.params and dispatch.instance_id != prefilled_at:
            self.body = decode_body(self.body, handoff.params)
        self._cached = handoff.cached_at(dispatch.instance_id)
        self._line = f"x-dualmap-prefill-instance: {prefilled_at}\r\n".encode()

    def usage(self) -> Usage:
        usage = super().usage()
        if self._cached is None or usage.prompt_tokens is None:
            return usage
        return Usage(usage.prompt_tokens, usage.completion_tokens, self._cached)

    def _pass_on(self, head: AnswerHead, body: bytes, complete: bool) -> None:
        super()._pass_on(head, body if self._cached is None else with_cached(body, self._cached), complete)

    def _begin(self, head: AnswerHead, body: bytes, complete: bool) -> None:
        head.lines = [*head.lines, self._line]
        super()._begin(head, body, complete)
