"""A gateway's side of Fleet: how far it has heard, and what it has to tell."""

from collections import deque
from collections.abc import Iterable, Mapping

from dualmap.scheduler.events import InstanceLoad, PrefixDepths
from dualmap.scheduler.fleet.messages import FleetNews, GatewayReport, Sent
from dualmap.scheduler.fleet.pool_totals import PoolTotals

MAX_UNSENT = 10_000  # prompts of about ten busy seconds


class GatewayLink:
    """Makes the gateway's reports and is told the news that answer them. tell_depths: Fleet does not know the depths in
    use."""

    def __init__(self, gateway_id: str) -> None:
        self.tell_depths = False
        self._gateway_id = gateway_id
        self._epoch = 0
        self._signals = 0  # number of the last signals heard
        self._heard = 0  # and of the last prompts of other gateways
        self._depth_epoch = 0
        self._unsent: deque[Sent] = deque(maxlen=MAX_UNSENT)  # prompts that Fleet has not been told of for sure

    def note_sent(self, sent: Iterable[Sent]) -> None:
        """Prompts that were dispatched: told again until Fleet answers."""
        self._unsent.extend(sent)

    def report(
        self,
        loads: tuple[InstanceLoad, ...],
        totals: Mapping[str, PoolTotals],
        depths: dict[str, PrefixDepths] | None = None,
        admin: str = "",
    ) -> GatewayReport:
        return GatewayReport(
            gateway_id=self._gateway_id,
            epoch=self._epoch,
            signals=self._signals,
            heard=self._heard,
            loads=loads,
            sent=tuple(self._unsent),
            totals=dict(totals),
            depth_epoch=self._depth_epoch,
            depths=depths,
            admin=admin,
        )

    def hear(self, news: FleetNews) -> None:
        """The answer to the last report."""
        self._unsent.clear()
        self._heard = news.heard
        self.tell_depths = news.tell_depths
        if news.membership is not None:
            self._epoch = news.membership.epoch
        if news.signals is not None:
            self._signals = news.signals.number
        if news.depths:
            self._depth_epoch = max(depths.epoch for depths in news.depths.values())
