"""What the core hears from outside besides requests: of instances, of the other gateways, of the planner, of the
operator."""

from dataclasses import replace

from dualmap.scheduler.admission import queue_is_full
from dualmap.scheduler.attempt import Attempt, AttemptState
from dualmap.scheduler.commands import Command
from dualmap.scheduler.config import LIVE_SETTINGS
from dualmap.scheduler.core.arrival import choose
from dualmap.scheduler.core.books import Books
from dualmap.scheduler.core.release import release
from dualmap.scheduler.events import (
    BlocksRemoved,
    BlocksStored,
    CacheCleared,
    GatewayLoads,
    LoadReported,
    MovesProposed,
    PrefixDepths,
    SettingsChanged,
)
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.policies import configured_for
from dualmap.scheduler.policies.dualmap import DualMap
from dualmap.scheduler.recheck_move import recheck_move
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.snapshot import Move
from dualmap.scheduler.tiers import tier_of
from dualmap.scheduler.untold import UNTOLD_SHARE


def cache_reported(books: Books, event: BlocksStored | BlocksRemoved | CacheCleared) -> None:
    view = books.instances.get(event.instance_id)
    if view is None:
        return
    if not isinstance(event, CacheCleared) and event.tier:
        _tier_reported(books, view, event)
        return
    match event:
        case BlocksStored():
            view.cache.use(event.blocks)
        case BlocksRemoved():
            view.cache.drop(event.blocks)
        case CacheCleared():
            view.cache.clear()


def _tier_reported(books: Books, view: InstanceView, event: BlocksStored | BlocksRemoved) -> None:
    tiers, tier = view.tiers, tier_of(event.tier)
    tiers.seen = True
    match event:
        case BlocksStored() if event.tier in books.config.shared_media:
            tiers.share(event.blocks, tier, view.offer.revision)
        case BlocksStored():
            view.cache.store_slow(event.blocks, tier)
        case BlocksRemoved() if event.tier in books.config.shared_media:
            tiers.unshare(event.blocks, tier, view.offer.revision)
        case BlocksRemoved():
            view.cache.drop_slow(event.blocks, tier)


def load_reported(books: Books, event: LoadReported, now: float, commands: list[Command]) -> None:
    if view := books.instances.get(event.instance_id):
        view.hear(event, now)
        release(books, view, now, commands)


def gateway_loads(books: Books, event: GatewayLoads, now: float, commands: list[Command]) -> None:
    for instance_id, blocks in event.sent:
        if instance_id in books.instances:
            books.instances[instance_id].cache.use(blocks)
    loads = {load.instance_id: load for load in event.loads}
    for view in books.instances.values():
        view.hear_of_others(loads.get(view.instance_id), now - event.age_s, books.config.release_window_s)
    told = books.untold.heard(event.told_s if event.loads else None, now)
    books.hears_others = bool(event.loads)
    books.loads.rivals = len(event.sent) if event.loads and not books.untold.asks else None
    for attempt in told:
        _settle(books, attempt, now, commands)
    for view in books.instances.values():
        release(books, view, now, commands)


def _settle(books: Books, attempt: Attempt, now: float, commands: list[Command]) -> None:
    """The others know where it waits. If they have work there themselves, another instance may be better."""
    view = books.instances.get(attempt.instance_id)
    if view is None or books.attempts.get(attempt.request.id) is not attempt or not view.others.work:
        return
    if (
        attempt.lease is not None
        or attempt.state is not AttemptState.WAITING
        or now - attempt.arrived_at > books.untold.most_s
    ):
        return
    placed_at = view.instance_id
    view.take_out(attempt)
    placement = choose(books, attempt.request, attempt.tried, now)
    if placement is not None and placement.estimate.instance_id != placed_at:
        target = books.instances[placement.estimate.instance_id]
        if not queue_is_full(target, books.config):
            attempt.place_at(placement.estimate, placement.reason, now)
            view = target
    if view.instance_id != placed_at or (view.others.waiting and view.room.is_there(books.config.release_window_s)):
        books.untold.tell_of(attempt, now, commands)  # who said first that it waits there goes now
    view.enqueue(attempt)


def prefix_depths(books: Books, event: PrefixDepths) -> bool:
    """Whether they are newer than those in use."""
    newer = isinstance(books.policy, DualMap) and books.policy.agree(event)
    if newer:
        books.tell_waiting_of_hot()
    return newer


def moves_proposed(books: Books, event: MovesProposed, now: float, commands: list[Command]) -> None:
    for move in event.moves:
        if books.config.rebalancing and event.version == books.version and _move(books, move, now, commands):
            books.stats.moves_applied += 1
        else:
            books.stats.moves_refused += 1


def _move(books: Books, move: Move, now: float, commands: list[Command]) -> bool:
    """Apply the move if it can still be made and still gains."""
    attempt = books.attempts.get(move.request_id)
    target = books.instances.get(move.to_instance_id)
    if attempt is None or attempt.state is not AttemptState.WAITING or attempt.instance_id != move.from_instance_id:
        return False
    if target is None or target.instance_id in books.suspects:
        return False
    source = books.instances[attempt.instance_id]
    estimate = recheck_move(attempt, source, target, books.recompute_price(target), books.config)
    if estimate is None:
        return False
    source.take_out(attempt)
    attempt.place_at(estimate, ChoiceReason.MOVED, now)
    target.enqueue(attempt)
    books.untold.tell_of(attempt, now, commands)
    release(books, target, now, commands)
    release(books, source, now, commands)
    return True


def settings_changed(books: Books, event: SettingsChanged) -> None:
    given = configured_for(event.config)
    books.config = replace(books.config, **{name: getattr(given, name) for name in LIVE_SETTINGS})
    books.untold.most_s = UNTOLD_SHARE * books.config.ttft_slo_s
    if isinstance(books.policy, DualMap):
        books.policy.config = books.config
