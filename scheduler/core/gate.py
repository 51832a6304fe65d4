"""Scheduler.handle: events in, commands out. The only owner of the core's mutable state.

A request is known from its arrival until Reject, FailStream, RequestFinished or RequestCancelled. In between it has
exactly one attempt, which waits in one instance's queue or runs on one instance; what it has booked there is given
back when it leaves, on every path. Events for an attempt that is over are counted and dropped.
"""

from collections.abc import Callable, Set
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

from dualmap.scheduler.admission import (
    least_important,
    place_with_room,
    queue_is_full,
    reject_exhausted,
    reject_no_instance,
    reject_queue_full,
    reject_timed_out,
    reject_too_many,
)
from dualmap.scheduler.answer_lengths import AnswerLengths
from dualmap.scheduler.attempt import Attempt, AttemptState
from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject, RejectReason, TellOthers
from dualmap.scheduler.config import LIVE_SETTINGS, SchedulerConfig
from dualmap.scheduler.errors import ContractError
from dualmap.scheduler.events import (
    BlocksRemoved,
    BlocksStored,
    CacheCleared,
    Event,
    FailureCause,
    FirstToken,
    GatewayLoads,
    InstanceDraining,
    InstanceJoined,
    InstanceLoad,
    InstanceLost,
    LoadReported,
    MovesProposed,
    PrefixDepths,
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    ServedElsewhere,
    SettingsChanged,
    Tick,
)
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.instance.pace import FleetPace
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.long_waits import LongWaits
from dualmap.scheduler.pick import recompute_price
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies import configured_for, make_policy
from dualmap.scheduler.policies.dualmap import DualMap
from dualmap.scheduler.recheck_move import recheck_move
from dualmap.scheduler.recovery import Fate, decide_fate
from dualmap.scheduler.request import ChoiceReason, Request
from dualmap.scheduler.snapshot import Move, Snapshot
from dualmap.scheduler.stats import SchedulerStats
from dualmap.scheduler.steal import overdue_to_take, request_to_take
from dualmap.scheduler.take_snapshot import take_snapshot
from dualmap.scheduler.time_outs import TimeOuts
from dualmap.scheduler.untold import SHORT_S, UNTOLD_SHARE, Untold

# An instance that shuts down aborts each new request at once: it would look idle and attract more. Not ERROR, which a
# request may bring about wherever it runs.
SUSPICIOUS = (FailureCause.CONNECT, FailureCause.ABORTED)
NOBODY: frozenset[str] = frozenset()
TELL_OTHERS = TellOthers()
# Of its objective for the first token: so long a request waits at the most that would slow others' tokens down beyond
# their objective. Longer, and what is held back comes all at once, and late.
HELD_SHARE = 0.1
CHECK_INTERVAL_S = 1.0  # how often what instances say, and how fast they are, is looked at without any event


class Scheduler:
    """`now` is in seconds of any monotonic clock, the same one at each call."""

    def __init__(self, config: SchedulerConfig) -> None:
        config = configured_for(config)
        self.config = config
        self.holders = Holders()
        self.loads = LoadOrder()  # ready instances
        self.pace = FleetPace()
        self.answers = AnswerLengths()
        self.policy = make_policy(config, self.holders, self.loads, self.answers)
        self.instances: dict[str, InstanceView] = {}
        self.attempts: dict[str, Attempt] = {}  # by request id: every request in flight
        self.stats = SchedulerStats()
        self.version = 0  # counts changes of membership
        self._suspects: set[str] = set()
        self._unable: dict[str, frozenset[str]] = {}  # by adapter; forgotten when an instance comes
        self._holding: set[str] = set()  # instances where one waits so that others have their tokens in time
        self._slow: list[InstanceView] = []  # those that have joined others at work
        self._assumed: list[tuple[float, str, int]] = []  # heap of (time, request id, attempt): first tokens not seen
        self._time_outs = TimeOuts(config.queue_timeout_s, self.attempts)
        self._untold = Untold(config.ttft_slo_s)
        self._hears_others = False
        self._long_waits = LongWaits(config.patience_slos, self.attempts)
        self._next_check = 0.0
        self._handlers: dict[type[Event], Callable[[Any, float, list[Command]], None]] = {
            InstanceJoined: self._instance_joined,
            InstanceDraining: self._instance_draining,
            InstanceLost: self._instance_lost,
            RequestArrived: self._request_arrived,
            FirstToken: self._first_token,
            ServedElsewhere: self._served_elsewhere,
            RequestFinished: self._request_finished,
            RequestFailed: self._request_failed,
            RequestCancelled: self._request_cancelled,
            BlocksStored: self._blocks_stored,
            BlocksRemoved: self._blocks_removed,
            CacheCleared: self._cache_cleared,
            LoadReported: self._load_reported,
            GatewayLoads: self._gateway_loads,
            PrefixDepths: self._prefix_depths,
            MovesProposed: self._moves_proposed,
            SettingsChanged: self._settings_changed,
            Tick: self._tick,
        }

    def handle(self, event: Event, now: float) -> list[Command]:
        """Apply the event and return what the driver has to do, in order. Raises ContractError for a reused request
        id."""
        commands: list[Command] = []
        self._handlers[type(event)](event, now, commands)
        return commands

    def snapshot(self, now: float) -> Snapshot | None:
        """What plan_rebalance needs; None while no instance is hot or rebalancing is off."""
        if not (self.config.rebalancing and self.policy.holds_requests):
            return None
        return take_snapshot(self.instances, self.loads, self.version, self.config)

    def own_loads(self, now: float) -> tuple[InstanceLoad, ...]:
        """What this core has booked, for the other gateways."""
        return tuple(
            InstanceLoad(
                i,
                view.running_count,
                view.booked_prefill_tokens,
                view.waiting_tokens,
                view.booked_kv_tokens,
                view.waiting_count,
                view.seconds_per_token,
                view.saved_tokens,
                view.head_age_s(now),
            )
            for i, view in self.instances.items()
        )

    @property
    def listens(self) -> bool:
        """Whether news of the other gateways is wanted soon: requests wait, and what they wait for may be where others
        have just been served."""
        return self._untold.asks and self.loads.waiting > 0

    # Requests.

    def _request_arrived(self, event: RequestArrived, now: float, commands: list[Command]) -> None:
        request = event.request
        if request.id in self.attempts:
            raise ContractError(f"request id {request.id!r} is in flight already")
        self.stats.arrived += 1
        if len(self.attempts) >= self.config.max_in_flight:
            shed = least_important(request, self.instances.values())
            if shed is None:
                self._reject(reject_too_many(request.id, self.loads.mean_s), commands)
                return
            self._shed(shed, now, commands)
        self._place(request, now, commands, number=1, arrived_at=now)
        if (attempt := self.attempts.get(request.id)) is not None:
            self.stats.arrived_work_tokens += attempt.work_tokens

    def _first_token(self, event: FirstToken, now: float, commands: list[Command]) -> None:
        attempt = self._running(event.request_id, event.attempt)
        if attempt is None or attempt.started:
            self.stats.late_events += 1
            return
        view = self.instances[attempt.instance_id]
        view.began(attempt, now)
        if now <= attempt.deadline_s:
            self.stats.slo_kept += 1
        else:
            self.stats.slo_missed += 1
        if attempt.state is AttemptState.PREFILLING:
            if attempt.request.streams:
                view.speed.observe(view.work_done_with(attempt), now)
            else:
                view.speed.starts(now)  # what is seen is the end of its answer, not that of its prefill
            view.prefilled(attempt)
            if view.others_wait:
                self._tell_others(commands)
            self._release(view, now, commands)

    def _served_elsewhere(self, event: ServedElsewhere, now: float, commands: list[Command]) -> None:
        attempt = self._running(event.request_id, event.attempt)
        view = self.instances.get(event.instance_id)
        if attempt is None or view is None or attempt.started or attempt.instance_id == event.instance_id:
            self.stats.late_events += 1
            return
        unreached = self.instances[attempt.instance_id]
        self._suspect(unreached, now, commands)
        self._give_back(attempt, unreached, now)
        attempt = replace(
            attempt, number=attempt.number + 1, tried=attempt.tried | {attempt.instance_id}, state=AttemptState.WAITING
        )
        attempt.place_at(view.estimate_ttft(attempt.request), ChoiceReason.REDIRECTED, now)
        self.attempts[event.request_id] = attempt
        self._dispatch(view, attempt, now, commands)
        self._release(unreached, now, commands)

    def _request_finished(self, event: RequestFinished, now: float, commands: list[Command]) -> None:
        attempt = self._running(event.request_id, event.attempt)
        if attempt is None:
            self.stats.late_events += 1
            return
        self.answers.observe(event.output_tokens)
        view = self.instances[attempt.instance_id]
        tpot_s = view.answered(attempt, event.output_tokens, now)
        if tpot_s is not None and attempt.tpot_slo_s:
            if tpot_s <= attempt.tpot_slo_s:
                self.stats.tpot_kept += 1
            else:
                self.stats.tpot_missed += 1
        if event.cached_tokens is not None and event.prompt_tokens is not None:
            view.learn_from_usage(attempt, event.prompt_tokens, event.cached_tokens, now)
        self._end(attempt, now, commands)

    def _request_failed(self, event: RequestFailed, now: float, commands: list[Command]) -> None:
        attempt = self._running(event.request_id, event.attempt)
        if attempt is None:
            self.stats.late_events += 1
            return
        if event.cause in SUSPICIOUS:
            self._suspect(self.instances[attempt.instance_id], now, commands)
        self._end(attempt, now, commands)
        self._recover(attempt, event.tokens_sent, event.cause, now, commands)

    def _request_cancelled(self, event: RequestCancelled, now: float, commands: list[Command]) -> None:
        attempt = self.attempts.get(event.request_id)
        if attempt is None:
            self.stats.late_events += 1
            return
        self._end(attempt, now, commands)

    def _settings_changed(self, event: SettingsChanged, now: float, commands: list[Command]) -> None:
        given = configured_for(event.config)
        self.config = replace(self.config, **{name: getattr(given, name) for name in LIVE_SETTINGS})
        self._untold.most_s = UNTOLD_SHARE * self.config.ttft_slo_s
        if isinstance(self.policy, DualMap):
            self.policy.config = self.config

    # Instances.

    def _instance_joined(self, event: InstanceJoined, now: float, commands: list[Command]) -> None:
        known = self.instances.get(event.instance_id)
        self._unable.clear()
        if known is not None:
            if event.incarnation == known.incarnation and self._joined_again(known, event):
                self._release(known, now, commands)
                return
            if event.incarnation <= known.incarnation:
                self.stats.late_events += 1
                return
            self._forget(known)
        view = InstanceView(
            event.instance_id,
            event.incarnation,
            event.capacity,
            self.config,
            self.holders,
            self.loads,
            self.pace,
            event.adapters,
        )
        if any(other.has_answered for other in self.instances.values()):
            view.start_slowly(now)
            self._slow.append(view)
        self.instances[event.instance_id] = view
        self._ready(view)
        self.version += 1
        if known is not None:
            self._evacuate(known, now, commands)

    def _joined_again(self, view: InstanceView, event: InstanceJoined) -> bool:
        """Whether that changes anything."""
        changed = view.adapters.set_able(event.adapters)
        if view.draining:
            view.draining = False
            self._ready(view)
            changed = True
        if changed:
            self.version += 1
        return changed

    def _ready(self, view: InstanceView) -> None:
        self.policy.add(view)
        self.loads.add(view)

    def _not_ready(self, view: InstanceView) -> None:
        view.draining = True
        self.policy.remove(view)
        self.loads.remove(view)

    def _instance_draining(self, event: InstanceDraining, now: float, commands: list[Command]) -> None:
        view = self.instances.get(event.instance_id)
        if view is None or view.draining or event.incarnation != view.incarnation:
            self.stats.late_events += 1
            return
        self._not_ready(view)
        self.version += 1
        if any(not other.draining for other in self.instances.values()):
            self._replace_waiting(view, now, commands)  # else they are served here, as nobody else can

    def _instance_lost(self, event: InstanceLost, now: float, commands: list[Command]) -> None:
        view = self.instances.get(event.instance_id)
        if view is None or event.incarnation != view.incarnation:
            self.stats.late_events += 1
            return
        self._forget(view)
        self._evacuate(view, now, commands)

    def _forget(self, view: InstanceView) -> None:
        if not view.draining:
            self._not_ready(view)
        del self.instances[view.instance_id]
        self._suspects.discard(view.instance_id)
        self.version += 1

    def _evacuate(self, view: InstanceView, now: float, commands: list[Command]) -> None:
        """Everything a forgotten instance had goes elsewhere, or fails where the client has part of the answer."""
        for attempt in list(view.running.values()):
            commands.append(Abort(attempt.request.id, attempt.number, view.instance_id))
            view.release(attempt)
            del self.attempts[attempt.request.id]
            self._recover(attempt, 0, FailureCause.INSTANCE_LOST, now, commands)
        self._replace_waiting(view, now, commands)
        view.forget()

    def _suspect(self, view: InstanceView, now: float, commands: list[Command]) -> None:
        """Leave the instance alone for a while; what waits for it does not try it one after the other."""
        self._suspects.add(view.instance_id)
        view.suspect_until = now + self.config.suspect_s
        if any(not v.draining and v.instance_id not in self._suspects for v in self.instances.values()):
            self._replace_waiting(view, now, commands)

    def _replace_waiting(self, view: InstanceView, now: float, commands: list[Command]) -> None:
        gone = self.instances.get(view.instance_id) is not view
        attempts = [a for a in view.waiting if gone or self._runs_elsewhere(a.request, view)]
        for attempt in attempts:  # all of them first: placing one lets instances take others
            view.take_out(attempt)
            del self.attempts[attempt.request.id]
        for attempt in attempts:
            self._place_again(attempt, now, commands, number=attempt.number, tried=attempt.tried)

    def _runs_elsewhere(self, request: Request, view: InstanceView) -> bool:
        """Whether another instance that takes requests can run it."""
        return not (request.adapter or request.only) or any(
            other is not view and not other.draining and other.can_run(request) for other in self.instances.values()
        )

    def _blocks_stored(self, event: BlocksStored, now: float, commands: list[Command]) -> None:
        if view := self.instances.get(event.instance_id):
            view.cache.use(event.blocks)

    def _blocks_removed(self, event: BlocksRemoved, now: float, commands: list[Command]) -> None:
        if view := self.instances.get(event.instance_id):
            view.cache.drop(event.blocks)

    def _cache_cleared(self, event: CacheCleared, now: float, commands: list[Command]) -> None:
        if view := self.instances.get(event.instance_id):
            view.cache.clear()

    def _load_reported(self, event: LoadReported, now: float, commands: list[Command]) -> None:
        if view := self.instances.get(event.instance_id):
            view.hear(event, now)
            self._release(view, now, commands)

    # Background.

    def _gateway_loads(self, event: GatewayLoads, now: float, commands: list[Command]) -> None:
        for instance_id, blocks in event.sent:
            if instance_id in self.instances:
                self.instances[instance_id].cache.use(blocks)
        loads = {load.instance_id: load for load in event.loads}
        for view in self.instances.values():
            view.hear_of_others(loads.get(view.instance_id), now - event.age_s, self.config.release_window_s)
        told = self._untold.heard(event.told_s if event.loads else None, now)
        self._hears_others = bool(event.loads)
        self.loads.rivals = len(event.sent) if event.loads and not self._untold.asks else None
        for attempt in told:
            self._settle(attempt, now, commands)
        for view in self.instances.values():
            self._release(view, now, commands)

    def _settle(self, attempt: Attempt, now: float, commands: list[Command]) -> None:
        """The others know where it waits. If they have work there themselves, another instance may be better."""
        view = self.instances.get(attempt.instance_id)
        if view is None or self.attempts.get(attempt.request.id) is not attempt or not view.others_work:
            return
        if attempt.state is not AttemptState.WAITING or now - attempt.arrived_at > self._untold.most_s:
            return
        placed_at = view.instance_id
        view.take_out(attempt)
        placement = self._choose(attempt.request, attempt.tried, now)
        if placement is not None and placement.estimate.instance_id != placed_at:
            target = self.instances[placement.estimate.instance_id]
            if not queue_is_full(target, self.config):
                attempt.place_at(placement.estimate, placement.reason, now)
                view = target
        if view.instance_id != placed_at or (view.others_wait and view.has_room(self.config.release_window_s)):
            self._tell_of(attempt, now, commands)  # who said first that it waits there goes now
        view.enqueue(attempt)

    def _tell_of(self, attempt: Attempt, now: float, commands: list[Command]) -> None:
        """It waits where the other gateways do not know of it."""
        if self._untold.asks:
            self._untold.add(attempt, now)
            self._tell_others(commands)

    def _tell_others(self, commands: list[Command]) -> None:
        if self._untold.asks and TELL_OTHERS not in commands:
            commands.append(TELL_OTHERS)

    def _prefix_depths(self, event: PrefixDepths, now: float, commands: list[Command]) -> None:
        if not (isinstance(self.policy, DualMap) and self.policy.keys.agree(event.epoch, event.depths, event.homes)):
            self.stats.late_events += 1

    def _moves_proposed(self, event: MovesProposed, now: float, commands: list[Command]) -> None:
        for move in event.moves:
            if self.config.rebalancing and event.version == self.version and self._move(move, now, commands):
                self.stats.moves_applied += 1
            else:
                self.stats.moves_refused += 1

    def _move(self, move: Move, now: float, commands: list[Command]) -> bool:
        """Apply the move if it can still be made and still gains."""
        attempt = self.attempts.get(move.request_id)
        target = self.instances.get(move.to_instance_id)
        if attempt is None or attempt.state is not AttemptState.WAITING or attempt.instance_id != move.from_instance_id:
            return False
        if target is None or target.instance_id in self._suspects:
            return False
        source = self.instances[attempt.instance_id]
        estimate = recheck_move(attempt, source, target, self._price(), self.config)
        if estimate is None:
            return False
        source.take_out(attempt)
        attempt.place_at(estimate, ChoiceReason.MOVED, now)
        target.enqueue(attempt)
        self._tell_of(attempt, now, commands)
        self._release(target, now, commands)
        self._release(source, now, commands)
        return True

    def _tick(self, event: Tick, now: float, commands: list[Command]) -> None:
        self._end_timed_out(now, commands)  # before anything starts: none of these shall
        self._assume_first_tokens(now, commands)
        self._suspects = {i for i in self._suspects if self.instances[i].suspect_until > now}
        if self._untold.is_unanswered(now):
            for view in self.instances.values():
                self._release(view, now, commands)
        if self._hears_others:
            self._age_others(now, commands)
        if self._slow:
            self._ramp_up(now, commands)
        if self._holding:
            holding, self._holding = sorted(self._holding), set()
            for view in filter(None, map(self.instances.get, holding)):
                self._release(view, now, commands)
        if now >= self._next_check:
            self._next_check = now + CHECK_INTERVAL_S
            for view in self.instances.values():
                view.reported.check(view.answered_at, now)
                view.fade()
                if not view.speed.is_known:
                    view.speed.refresh()
                    self.loads.changed(view)
                self._release(view, now, commands)

    def _ramp_up(self, now: float, commands: list[Command]) -> None:
        self._slow = [v for v in self._slow if v.ramp < 1.0 and self.instances.get(v.instance_id) is v]
        for view in self._slow:
            view.ramp_up(now)
            self._release(view, now, commands)

    def _age_others(self, now: float, commands: list[Command]) -> None:
        for view in self.instances.values():
            if view.others is not None and view.age_others(now):
                self._release(view, now, commands)
        if all(view.others is None for view in self.instances.values()):
            self.loads.rivals = None
            self._hears_others = False

    def _assume_first_tokens(self, now: float, commands: list[Command]) -> None:
        """An answer that is not streamed shows no first token: its prefill is taken to end when estimated."""
        while self._assumed and self._assumed[0][0] <= now:
            _, request_id, number = heappop(self._assumed)
            attempt = self._running(request_id, number)
            if attempt is not None and attempt.state is AttemptState.PREFILLING:
                view = self.instances[attempt.instance_id]
                view.speed.starts(now)
                view.prefilled(attempt)
                self._release(view, now, commands)

    def _end_timed_out(self, now: float, commands: list[Command]) -> None:
        freed: dict[str, InstanceView] = {}
        for attempt in self._time_outs.pop_due(now):  # all of them first: another that is due must not start meanwhile
            request = attempt.request
            view = freed[attempt.instance_id] = self.instances[attempt.instance_id]
            if attempt.state is AttemptState.WAITING:
                reason = RejectReason.QUEUE_TIMEOUT
            else:
                reason = RejectReason.FIRST_TOKEN_TIMEOUT
                commands.append(Abort(request.id, attempt.number, view.instance_id))
            self._give_back(attempt, view, now)
            self._reject(reject_timed_out(request, view, reason), commands)
        for view in freed.values():
            self._release(view, now, commands)

    # What the handlers share.

    def _running(self, request_id: str, number: int) -> Attempt | None:
        """The attempt, if it is the request's current one and has been dispatched."""
        attempt = self.attempts.get(request_id)
        if attempt is None or attempt.number != number or attempt.state is AttemptState.WAITING:
            return None
        return attempt

    def _place(
        self,
        request: Request,
        now: float,
        commands: list[Command],
        *,
        number: int,
        arrived_at: float,
        tried: frozenset[str] = frozenset(),
    ) -> None:
        placement = self._choose(request, tried, now)
        if placement is None:
            self._reject(reject_no_instance(request.id), commands)
            return
        estimate, reason = placement.estimate, placement.reason
        deadline_s = arrived_at + (request.ttft_slo_s or self.config.ttft_slo_s)
        view = self.instances[estimate.instance_id]
        if queue_is_full(view, self.config):
            candidates = [self.instances[instance_id] for instance_id in placement.candidates]
            elsewhere = place_with_room(request, candidates, self.config)
            if elsewhere is not None:
                estimate, reason = elsewhere, ChoiceReason.SWITCHED
                view = self.instances[estimate.instance_id]
            else:
                in_time = now + estimate.total_s <= deadline_s
                shed = view.waiting.least_important(request, estimate.work_tokens, in_time)
                if shed is None:
                    self._reject(reject_queue_full(request, view), commands)
                    return
                self._shed(shed, now, commands)
        attempt = Attempt(
            request,
            number,
            arrived_at,
            estimate.instance_id,
            placement.candidates,
            reason,
            estimate.total_s + (now - arrived_at),
            estimate.cached_tokens,
            estimate.uncached_tokens,
            estimate.work_tokens,
            deadline_s,
            tried,
            considered=placement.considered,
            shared_blocks=placement.shared_blocks,
            tpot_slo_s=self.config.tpot_slo_s if request.tpot_slo_s is None else request.tpot_slo_s,
        )
        self.attempts[request.id] = attempt
        first = not len(view.waiting) and not view.others_wait
        untold = self._untold.asks and attempt.work_tokens * view.seconds_per_token >= SHORT_S
        if not self.policy.holds_requests or (first and not untold and self._can_start(view, attempt, now)):
            self._dispatch(view, attempt, now, commands)
            if request.timeout_s is not None:
                self._time_outs.watch(attempt)
            return
        view.enqueue(attempt)
        self._time_outs.watch(attempt)
        self._long_waits.watch(attempt)
        if untold:
            self._tell_of(attempt, now, commands)
        self._release(view, now, commands)

    def _choose(self, request: Request, tried: frozenset[str], now: float) -> Placement | None:
        """Avoid suspects and instances that failed the request, as long as others are left; always those that cannot
        run it."""
        slo_s = request.ttft_slo_s or self.config.ttft_slo_s
        unable = self._without(request.adapter) if request.adapter else NOBODY
        if request.only:
            unable |= self.instances.keys() - set(request.only)
        avoid: Set[str] = self._suspects | tried | unable if self._suspects or tried or unable else tried
        placement = self.policy.place(request, slo_s, avoid, now)
        if placement is None and self._suspects:
            placement = self.policy.place(request, slo_s, tried | unable, now)
        if placement is None and tried:
            placement = self.policy.place(request, slo_s, unable, now)
        return placement

    def _without(self, adapter: str) -> frozenset[str]:
        """Instances that cannot run the adapter."""
        unable = self._unable.get(adapter)
        if unable is None:
            views = self.instances.values()
            unable = frozenset(view.instance_id for view in views if not view.adapters.can_run(adapter))
            self._unable[adapter] = unable
        return unable

    def _release(self, view: InstanceView, now: float, commands: list[Command]) -> None:
        """Dispatch what the instance can start: of its own queue and of those that have waited for too long elsewhere;
        then, if it would idle, from another's queue."""
        while len(view.waiting) and view.has_room(self.config.release_window_s):
            attempt = view.next_waiting(now)
            if attempt is None or self._untold.keeps(attempt, now) or view.yields(attempt, now):
                return
            if self._take_overdue(view, attempt, now, commands):
                continue
            if not view.has_kv(attempt.request, self.answers.expected(attempt.request)):
                return
            if not self._may_decode(view, attempt, now):
                self._holding.add(view.instance_id)
                return
            view.take_out(attempt, starts=True)
            self._dispatch(view, attempt, now, commands)
        nobody_waits = not len(view.waiting) and not view.others_wait
        if self.config.taking and self.loads.waiting and nobody_waits and not view.draining:
            self._take_from_others(view, now, commands)

    def _take_from_others(self, view: InstanceView, now: float, commands: list[Command]) -> None:
        if view.instance_id in self._suspects or view.reported.stale:
            return
        while view.has_room(self.config.release_window_s):
            if self._take_overdue(view, None, now, commands):
                continue
            decode_price_s = self.config.decode_s_per_request * self.answers.mean_tokens
            found = request_to_take(view, self.loads, self._price(), decode_price_s, self.config.min_move_gain_s)
            if found is None:
                return
            source, attempt = found
            if not self._can_start(view, attempt, now):
                return
            if self._untold.asks:
                self._bring(attempt, source, view, now)
                self._tell_of(attempt, now, commands)
                self._release(source, now, commands)
                return
            self._take(attempt, source, view, now, commands)

    def _take_overdue(self, view: InstanceView, own: Attempt | None, now: float, commands: list[Command]) -> bool:
        """Dispatch who has waited for too long elsewhere, instead of its own next, if any."""
        may_take = self.config.taking and self.config.deadline_order
        if not may_take or view.draining or view.instance_id in self._suspects:
            return False
        for attempt in overdue_to_take(view, own, self._long_waits, now):
            if self._can_start(view, attempt, now):
                self._take(attempt, self.instances[attempt.instance_id], view, now, commands)
                return True
        return False

    def _take(
        self, attempt: Attempt, source: InstanceView, view: InstanceView, now: float, commands: list[Command]
    ) -> None:
        self._bring(attempt, source, view, now)
        view.take_out(attempt, starts=True)  # a turn of its tenant
        self._dispatch(view, attempt, now, commands)
        self._release(source, now, commands)  # where it stood first, the next may fit

    def _bring(self, attempt: Attempt, source: InstanceView, view: InstanceView, now: float) -> None:
        source.take_out(attempt)
        attempt.place_at(view.estimate_ttft(attempt.request), ChoiceReason.TAKEN, now)
        self.stats.requests_taken += 1
        view.enqueue(attempt)

    def _can_start(self, view: InstanceView, attempt: Attempt, now: float) -> bool:
        request = attempt.request
        if not view.has_room(self.config.release_window_s) or request.tenant in view.crowding():
            return False
        return view.has_kv(request, self.answers.expected(request)) and self._may_decode(view, attempt, now)

    def _may_decode(self, view: InstanceView, attempt: Attempt, now: float) -> bool:
        """Whether nobody's tokens would be late by it, or it has waited for that long enough."""
        held_s = HELD_SHARE * (attempt.deadline_s - attempt.arrived_at)
        if now - attempt.arrived_at >= held_s:
            return True
        return view.keeps_pace(attempt.request.prompt_tokens, attempt.tpot_slo_s)

    def _price(self) -> float:
        return recompute_price(self.loads.busy, self.config)

    def _dispatch(self, view: InstanceView, attempt: Attempt, now: float, commands: list[Command]) -> None:
        request = attempt.request
        view.dispatch(attempt, self.answers.expected(request), now)
        if not request.streams:
            heappush(self._assumed, (now + view.prefilling_s, request.id, attempt.number))
        commands.append(
            Dispatch(
                request.id,
                attempt.number,
                view.instance_id,
                attempt.reason,
                now - attempt.arrived_at,
                attempt.estimated_ttft_s,
                attempt.cached_tokens,
                attempt.number >= self.config.max_attempts,
            )
        )
        if attempt.work_tokens * view.seconds_per_token >= SHORT_S:
            self._tell_others(commands)

    def _reject(self, rejected: Reject, commands: list[Command]) -> None:
        self.stats.slo_missed += 1
        commands.append(rejected)

    def _shed(self, attempt: Attempt, now: float, commands: list[Command]) -> None:
        """One that waits makes room for another."""
        self._reject(reject_queue_full(attempt.request, self.instances[attempt.instance_id]), commands)
        self._end(attempt, now, commands)

    def _end(self, attempt: Attempt, now: float, commands: list[Command]) -> None:
        """Give back all the attempt has booked, and let the next in the queue start."""
        view = self.instances[attempt.instance_id]
        self._give_back(attempt, view, now)
        self._release(view, now, commands)

    def _give_back(self, attempt: Attempt, view: InstanceView, now: float) -> None:
        """The request is over, or its next attempt comes: the books are as without this one."""
        del self.attempts[attempt.request.id]
        if attempt.state is AttemptState.WAITING:
            view.take_out(attempt)
        else:
            if attempt.state is AttemptState.PREFILLING:
                view.speed.starts(now)  # the time it took is nobody else's
            view.release(attempt)

    def _recover(
        self, attempt: Attempt, tokens_sent: int, cause: FailureCause, now: float, commands: list[Command]
    ) -> None:
        """Decide on a request whose attempt failed; the attempt has been taken off the books."""
        match decide_fate(attempt, tokens_sent, cause, self.config):
            case Fate.FAIL:
                if not attempt.started:
                    self.stats.slo_missed += 1
                commands.append(FailStream(attempt.request.id, cause))
            case Fate.GIVE_UP:
                self._reject(reject_exhausted(attempt.request.id), commands)
            case Fate.RETRY:
                self.stats.retries += 1
                tried = attempt.tried | {attempt.instance_id}
                self._place_again(attempt, now, commands, number=attempt.number + 1, tried=tried)

    def _place_again(
        self, attempt: Attempt, now: float, commands: list[Command], *, number: int, tried: frozenset[str]
    ) -> None:
        self._place(attempt.request, now, commands, number=number, arrived_at=attempt.arrived_at, tried=tried)
