"""The two legs of a request that one instance prepares and another answers, each an attempt of its exchange."""

from asyncio import create_task

from dualmap.router.apis.usage import Usage, with_cached
from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.instance_head import InstanceHead
from dualmap.router.http.upstream_pool import OpeningConnection, UpstreamPool
from dualmap.router.legs.bootstrap import Bootstrap
from dualmap.router.legs.handoff import Handoff
from dualmap.router.legs.leg_body import leg_body
from dualmap.router.requests.answer_verdict import NOT_UNDERSTOOD, names_params
from dualmap.router.requests.answer_writer import AnswerWriter
from dualmap.router.requests.running import OK_STATUS, Carrier, Running
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause

MOST_BYTES = 1024 * 1024  # of an answer of one token
_REFUSED = (
    "it has refused the %s leg of a request (HTTP %d), which then ran whole: is its server started for the connector"
    " that kv_transfer names?"
)


class PrefillRun(Running):
    """Its answer goes to nobody but the decode leg, an error the way of any attempt's."""

    __slots__ = ("_connector", "_got", "_legs", "_source")

    def __init__(
        self, carrier: Carrier, writer: AnswerWriter, dispatch: Dispatch, pool: UpstreamPool, now: float
    ) -> None:
        super().__init__(carrier, writer, dispatch, pool, now)
        connector, one_token = carrier.asked.connector, carrier.arrived.api.one_token
        assert connector is not None, "the request may be split"
        assert one_token is not None, "its API may"
        self.body = leg_body(self.body, one_token(self.body), connector.lend(dispatch))
        self._connector = connector
        self._legs = carrier
        self._got = b""
        self._source = connector.source(pool)
        if self._source is not None and not self._source.is_known:
            self.upstream = OpeningConnection(create_task(self._ask_first(self._source)))

    async def _ask_first(self, source: Bootstrap) -> None:
        """What is computed for a reader who does not know where to read would be kept in vain."""
        await source.answer()
        if source.engine_id:
            self._pool.run(self)
        else:
            self._pool.warn(source.trouble)
            self.attempt_failed(FailureCause.CONNECT)

    def head_for(self, to: InstanceHead) -> bytes:
        if self._source is not None:
            self._source.look()
        return super().head_for(to)

    def relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        if head.status != OK_STATUS or head.html:
            super().relay(body, pieces, head, complete)
            return
        self._got += body
        if len(self._got) > MOST_BYTES:
            self._give_up(FailureCause.BROKEN)

    def _not_offered(self, status: int, body: bytes, last: bool) -> FailureCause | None:
        cause = super()._not_offered(status, body, last)
        if cause is None and names_params(status, body):
            self._pool.warn(_REFUSED % ("prefill", status))
            return FailureCause.LEG_REFUSED
        return cause

    def answer_complete(self, head: AnswerHead) -> None:
        if head.status != OK_STATUS:
            super().answer_complete(head)
            return
        self.upstream = None
        if self._source is None or self._source.is_known:
            self._hand_over()
        else:
            self.upstream = OpeningConnection(create_task(self._ask_again(self._source)))

    async def _ask_again(self, source: Bootstrap) -> None:
        await source.answer()
        self.upstream = None
        self._hand_over()

    def _hand_over(self) -> None:
        handoff = self._connector.hand_over(self.dispatch, self._got, self._source)
        if not handoff.params:
            self._pool.warn(self._connector.nothing_told)
        self._legs.prefilled(self, handoff)


class DecodeRun(Running):
    """Its instance counts all that it need not compute as cached: what was cached before, the prefill leg knows."""

    __slots__ = ("_cached", "_handed", "_line")

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
        prefilled_at, connector = handoff.dispatch.instance_id, carrier.asked.connector
        reads = dispatch.instance_id != prefilled_at or (connector is not None and connector.read_by_itself)
        self._handed = bool(handoff.params) and reads
        if self._handed:
            self.body = leg_body(self.body, b"", handoff.params)
        self._cached = handoff.cached_at(dispatch.instance_id)
        self._line = f"x-dualmap-prefill-instance: {prefilled_at}\r\n".encode()

    def _not_offered(self, status: int, body: bytes, last: bool) -> FailureCause | None:
        """What the client has sent was good enough for the prefill leg."""
        cause = super()._not_offered(status, body, last)
        if cause is None and self._handed and status in NOT_UNDERSTOOD:
            self._pool.warn(_REFUSED % ("decode", status))
            return FailureCause.LEG_REFUSED
        return cause

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
