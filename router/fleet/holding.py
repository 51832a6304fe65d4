"""Answers that Fleet holds back: a gateway that has nothing to do asks once, and hears what is new when it is new."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from dualmap.scheduler.fleet.messages import FleetNews, GatewayReport


class Holding:
    def __init__(self) -> None:
        self._moved = asyncio.Event()  # set, and replaced, by what may be news to somebody
        self._said: dict[str, object] = {}  # by gateway: what of its last report concerns others
        self._told: dict[str, object] = {}  # by gateway: what it knows that has no number

    def note_move(self) -> None:
        """Gateways that wait may have something to hear."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def answer(self, report: GatewayReport, patience_s: float, ask: Callable[[], FleetNews]) -> FleetNews:
        """The first answer to the report that says something, or the one there is when the patience is over. Each
        answer is asked for anew, and so the report stays as young as what it is compared with."""
        said = (report.loads, report.epoch, report.leaving)
        if not patience_s or self._said.get(report.gateway_id) != said:
            self._said[report.gateway_id] = said
            self.note_move()
        began_at = time.monotonic()
        moved, news = self._moved, ask()
        while not self._says_something(report.gateway_id, news):
            left_s = began_at + patience_s - time.monotonic()
            if left_s <= 0.0:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await moved.wait()
            moved, news = self._moved, ask()
        self._told[report.gateway_id] = _unnumbered(news)
        known = {gateway.gateway_id for gateway in news.gateways} | {report.gateway_id}
        for gone in self._told.keys() - known:
            del self._told[gone]
            self._said.pop(gone, None)
        return replace(news, held_s=time.monotonic() - began_at)

    def _says_something(self, gateway_id: str, news: FleetNews) -> bool:
        numbered = news.membership or news.signals or news.states or news.events or news.depths
        asks = news.tell_depths or news.tell_members
        sent = news.others is not None and news.others.sent
        return bool(numbered or asks or sent) or self._told.get(gateway_id) != _unnumbered(news)


def _unnumbered(news: FleetNews) -> object:
    gateways = tuple((gateway.gateway_id, gateway.epoch, gateway.leaving) for gateway in news.gateways)
    return gateways, news.plans, None if news.others is None else news.others.loads
