"""What gateways of a cluster in virtual time tell each other, as they do over Fleet: each calls when its time has come,
or its core asks for it, and Fleet's own board answers with what the others had said by then."""

from collections.abc import Callable
from dataclasses import replace

from dualmap.loadtest.virtual.clock import VirtualClock
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import Event, PrefixDepths
from dualmap.scheduler.fleet.load_board import LoadBoard
from dualmap.scheduler.fleet.messages import GatewayReport, Sent
from dualmap.scheduler.prefix_key import PrefixKeys

# As in the live gateway.
LEAST_GAP_S = 0.005  # between an answer and the next call
LISTEN_INTERVAL_S = 0.03  # while requests wait


class VirtualExchange:
    """tell: give a gateway an event. answer_s: from a call to its answer. sent: by gateway, prompts dispatched since
    its last call."""

    def __init__(
        self,
        clock: VirtualClock,
        cores: list[Scheduler],
        tell: Callable[[int, Event], None],
        *,
        config: SchedulerConfig,
        interval_s: float,
        answer_s: float,
    ) -> None:
        self.sent: list[list[Sent]] = [[] for _ in cores]
        self._clock = clock
        self._cores = cores
        self._tell = tell
        self._interval_s = interval_s
        self._answer_s = answer_s
        self._keys = PrefixKeys(config.key_blocks, config.max_key_blocks, adaptive=config.adaptive_key)
        self._agreed = PrefixDepths(1, ())
        self._board = LoadBoard(1)
        self._calls = [0 for _ in cores]
        self._asked = [False for _ in cores]
        self._may_ask_at = [0.0 for _ in cores]
        self._heard = [0 for _ in cores]
        self._epochs = [0 for _ in cores]

    def begin(self) -> None:
        for gateway, _ in enumerate(self._cores):
            first_s = self._interval_s * gateway / len(self._cores)
            self._clock.at(first_s, self._call_when_due, gateway, 0)

    def ask(self, gateway: int) -> None:
        """Its core wants to be heard at once."""
        if not self._asked[gateway]:
            self._asked[gateway] = True
            self._clock.at(max(self._clock.now, self._may_ask_at[gateway]), self._call, gateway)

    def _call_when_due(self, gateway: int, calls: int) -> None:
        """calls: that it had made when this was planned; one made since has its own next."""
        if calls == self._calls[gateway]:
            self._call(gateway)

    def _call(self, gateway: int) -> None:
        now, core = self._clock.now, self._cores[gateway]
        self._asked[gateway] = False
        self._calls[gateway] += 1
        self._may_ask_at[gateway] = now + self._answer_s + LEAST_GAP_S
        sent, self.sent[gateway] = tuple(self.sent[gateway]), []
        self._board.put(GatewayReport(str(gateway), loads=core.own_loads(now), sent=sent), now)
        loads, self._heard[gateway] = self._board.others(str(gateway), self._heard[gateway], now)
        if loads is not None:
            late_s = self._answer_s
            news = replace(loads, age_s=loads.age_s + late_s, told_s=late_s)
            self._clock.at(now + late_s, self._tell, gateway, news)
        self._agree_on_depths(gateway, sent)
        interval_s = min(self._interval_s, LISTEN_INTERVAL_S) if core.listens else self._interval_s
        self._clock.at(now + interval_s, self._call_when_due, gateway, self._calls[gateway])

    def _agree_on_depths(self, gateway: int, sent: tuple[Sent, ...]) -> None:
        """As Fleet does, from what all gateways have sent."""
        self._keys.resize(sum(not view.draining for view in self._cores[0].instances.values()))
        for _, blocks in sent:
            if blocks:
                self._keys.observe(blocks)
        depths, homes = tuple(self._keys.depths.items()), tuple(self._keys.homes.items())
        if (depths, homes) != (self._agreed.depths, self._agreed.homes):
            self._agreed = PrefixDepths(self._agreed.epoch + 1, depths, homes)
        if self._epochs[gateway] != self._agreed.epoch:
            self._epochs[gateway] = self._agreed.epoch
            self._clock.at(self._clock.now + self._answer_s, self._tell, gateway, self._agreed)
