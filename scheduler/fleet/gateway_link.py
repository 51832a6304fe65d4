"""A gateway's side of Fleet: how far it has heard, and what it has to tell."""

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice

from dualmap.scheduler.events import InstanceLoad, PrefixDepths
from dualmap.scheduler.fleet.event_board import MOST_EVENTS
from dualmap.scheduler.fleet.fleet_event import FleetEvent
from dualmap.scheduler.fleet.member import Membership
from dualmap.scheduler.fleet.messages import CarriedRequests, FleetNews, GatewayReport, Sent
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.prompt_log import PromptLog
from dualmap.scheduler.fleet.state_board import MAX_STATES, MAX_TOLD, StateHome
from dualmap.scheduler.held_requests import HeldWork

MAX_UNSENT_BLOCKS = 250_000  # of prompts of about ten busy seconds, 10 MB


class GatewayLink:
    """Makes the gateway's reports and is told the news that answer them. tell_depths: Fleet does not know the depths in
    use; tell_states: nor what this gateway knows of what instances keep; tell_events: nor what happened. behind: there
    is more to tell or to hear of what instances keep than is told at once. leaving: see GatewayReport."""

    def __init__(self, gateway_id: str) -> None:
        self.tell_depths = False
        self.tell_states = False
        self.tell_events = False
        self.behind = False
        self.leaving = False
        self._gateway_id = gateway_id
        self._membership = Membership()
        self._tell_members = False
        self._signals = 0  # number of the last signals heard
        self._heard = 0  # and of the last prompts of other gateways
        self._depth_epoch = 0
        self._unsent: PromptLog[Sent] = PromptLog(MAX_UNSENT_BLOCKS)  # prompts that Fleet has not been told of for sure
        self._states_heard = 0
        self._unsent_states: deque[StateHome] = deque(maxlen=MAX_STATES)
        self._told_states = 0  # of these, by the last report
        self._events_heard = 0
        self._unsent_events: deque[FleetEvent] = deque(maxlen=MOST_EVENTS)
        self._unsent_carried: deque[CarriedRequests] = deque(maxlen=MOST_EVENTS)

    @property
    def is_told(self) -> bool:
        """Whether Fleet knows all there was to tell, and asks for nothing."""
        unsent = self._unsent or self._unsent_states or self._unsent_events or self._unsent_carried
        asked = self.tell_depths or self.tell_states or self.tell_events or self._tell_members
        return self._membership.epoch > 0 and not (unsent or asked or self.behind or self.leaving)

    def note_sent(self, sent: Iterable[Sent]) -> None:
        """Prompts that were dispatched: told again until Fleet answers."""
        for prompt in sent:
            self._unsent.append(prompt)

    def note_states(self, homes: Iterable[StateHome]) -> None:
        """What instances keep: told again until Fleet answers."""
        self._unsent_states.extend(homes)

    def note_events(self, events: Iterable[FleetEvent], carried: Iterable[CarriedRequests]) -> None:
        """What happened here, and what became of requests of lost instances: told again until Fleet answers."""
        self._unsent_events.extend(events)
        self._unsent_carried.extend(carried)

    def report(
        self,
        loads: tuple[InstanceLoad, ...],
        totals: Mapping[str, PoolTotals],
        depths: dict[str, PrefixDepths] | None = None,
        admin: str = "",
        told_before: tuple[FleetEvent, ...] = (),
        held: Mapping[str, HeldWork] | None = None,
    ) -> GatewayReport:
        """held: by pool."""
        states = tuple(islice(self._unsent_states, MAX_TOLD))
        self._told_states = len(states)
        return GatewayReport(
            gateway_id=self._gateway_id,
            epoch=self._membership.epoch,
            signals=self._signals,
            heard=self._heard,
            loads=loads,
            sent=tuple(self._unsent),
            totals=dict(totals),
            depth_epoch=self._depth_epoch,
            depths=depths,
            admin=admin,
            states=states,
            states_heard=self._states_heard,
            members=self._membership.members if self._tell_members else (),
            tells_members=self._tell_members,
            events=tuple(self._unsent_events),
            carried=tuple(self._unsent_carried),
            events_heard=self._events_heard,
            told_before=told_before,
            leaving=self.leaving,
            held=dict(held or {}),
        )

    def hear(self, news: FleetNews) -> None:
        """The answer to the last report."""
        self._unsent.clear()
        self._unsent_events.clear()
        self._unsent_carried.clear()
        self._heard = news.heard
        self.tell_depths = news.tell_depths
        self._tell_members = news.tell_members
        for _ in range(self._told_states):
            self._unsent_states.popleft()
        self._told_states = 0
        states = news.states
        self.tell_states = states is not None and states.tell_all
        self.behind = bool(self._unsent_states) or (states is not None and len(states.homes) == MAX_TOLD)
        if states is not None:
            self._states_heard = states.number
        self.tell_events = news.events is not None and news.events.tell_all
        if news.events is not None:
            self._events_heard = news.events.number
        if news.membership is not None:
            self._membership = news.membership
        if news.signals is not None:
            self._signals = news.signals.number
        if news.depths:
            self._depth_epoch = max(depths.epoch for depths in news.depths.values())
