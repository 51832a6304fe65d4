"""Instances come and go.

Each function for an event says whether the event was about an incarnation that is there; if not, nothing has happened.
"""

from dualmap.scheduler.attempt import Attempt, Ending
from dualmap.scheduler.commands import Abort, Command
from dualmap.scheduler.core.arrival import place, recover
from dualmap.scheduler.core.books import LOOK_INTERVAL_S, Books
from dualmap.scheduler.core.cold_start import release_held
from dualmap.scheduler.core.release import release
from dualmap.scheduler.events import FailureCause, InstanceDraining, InstanceJoined, InstanceLost
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.request import Request


def instance_joined(books: Books, event: InstanceJoined, now: float, commands: list[Command]) -> bool:
    known = books.instances.get(event.instance_id)
    if known is not None:
        if event.incarnation == known.incarnation and _joined_again(books, known, event):
            _replace_unable(books, known, now, commands)
            release_held(books, now, commands)
            release(books, known, now, commands)
            return True
        if event.incarnation <= known.incarnation:
            return False
        _forget(books, known)
    view = InstanceView(
        event.instance_id,
        event.incarnation,
        event.capacity,
        config=books.config,
        holders=books.holders,
        loads=books.loads,
        pace=books.pace_of(event.models, event.role),
        offers=books.offers,
        models=event.models,
        adapters=event.adapters,
        role=event.role,
        revision=event.revision,
    )
    if any(other.service.has_answered for other in books.instances.values()):
        view.service.start_slowly(now)
        books.slow.append(view)
    books.instances[event.instance_id] = view
    _ready(books, view)
    books.version += 1
    if known is not None:
        _evacuate(books, known, now, commands)
    release_held(books, now, commands)
    return True


def instance_draining(books: Books, event: InstanceDraining, now: float, commands: list[Command]) -> bool:
    view = books.instances.get(event.instance_id)
    if view is None or view.draining or event.incarnation != view.incarnation:
        return False
    _not_ready(books, view)
    books.version += 1
    if any(not other.draining for other in books.instances.values()):
        _replace_waiting(books, view, now, commands)  # else they are served here, as nobody else can
    return True


def instance_lost(books: Books, event: InstanceLost, now: float, commands: list[Command]) -> bool:
    view = books.instances.get(event.instance_id)
    if view is None or event.incarnation != view.incarnation:
        return False
    _forget(books, view)
    _evacuate(books, view, now, commands)
    return True


def suspect(books: Books, view: InstanceView, now: float, commands: list[Command]) -> None:
    """Leave the instance alone for a while; what waits for it does not try it one after the other."""
    books.suspects.add(view.instance_id)
    view.suspect_until = now + books.config.suspect_s
    if any(not v.draining and v.instance_id not in books.suspects for v in books.instances.values()):
        _replace_waiting(books, view, now, commands)


def leave_silent(books: Books, elapsed_s: float, now: float, commands: list[Command]) -> None:
    """An instance that has been silent at two looks, while others spoke, hangs: what waits there, and what has shown no
    output, goes elsewhere. elapsed_s: since the last look; where all is silent, or looks come late, the silence is on
    the way or of our own."""
    silent = {view.instance_id for view in books.instances.values() if view.reported.stale}
    if elapsed_s > 2 * LOOK_INTERVAL_S or not any(view.reported.speaks for view in books.instances.values()):
        silent.clear()
    was_silent, books.silent = books.silent, silent
    for instance_id in sorted(silent & was_silent):
        view = books.instances[instance_id]
        suspect(books, view, now, commands)
        for attempt in list(view.running.values()):
            request = attempt.asked
            if attempt.started or request.home is not None or books.is_last(attempt):
                continue
            if _runs_elsewhere(books, request, view):
                _take_from(books, view, attempt, Ending.SILENT, FailureCause.STALLED, now, commands)


def _joined_again(books: Books, view: InstanceView, event: InstanceJoined) -> bool:
    """Whether that changes anything."""
    changed = view.offers_now(event.models, event.adapters, event.role, event.revision)
    if changed and not view.draining:
        books.offers.put(view.instance_id, view.bit, view.offer)
    changed |= view.keeps_now(event.capacity.cache_tokens)
    if view.draining:
        view.draining = False
        _ready(books, view)
        changed = True
    if changed:
        books.version += 1
    return changed


def _ready(books: Books, view: InstanceView) -> None:
    books.offers.put(view.instance_id, view.bit, view.offer)
    books.policy.add(view)
    books.loads.add(view)


def _not_ready(books: Books, view: InstanceView) -> None:
    view.draining = True
    books.policy.remove(view)
    books.loads.remove(view)
    books.offers.remove(view.instance_id)


def _forget(books: Books, view: InstanceView) -> None:
    if not view.draining:
        _not_ready(books, view)
    del books.instances[view.instance_id]
    books.suspects.discard(view.instance_id)
    books.silent.discard(view.instance_id)
    books.version += 1


def _evacuate(books: Books, view: InstanceView, now: float, commands: list[Command]) -> None:
    """Everything a forgotten instance had goes elsewhere, or fails where the client has part of the answer."""
    for attempt in list(view.running.values()):
        _take_from(books, view, attempt, Ending.LOST, FailureCause.INSTANCE_LOST, now, commands)
    _replace_waiting(books, view, now, commands)
    if view.booked.lent:
        for other in list(books.instances.values()):
            _place_again(books, other, [a for a in other.waiting if _waits_to_fetch(a, view)], now, commands)
    view.forget()


def leave_old_leases(books: Books, now: float, commands: list[Command]) -> None:
    """What has waited too long to fetch its prompt begins again: the memory may be another prompt's by now, and a
    server that answers from it does not notice."""
    if any(view.booked.lent for view in books.instances.values()):
        for view in list(books.instances.values()):
            old = [a for a in view.waiting if a.lease is not None and now >= a.lease.until]
            _place_again(books, view, old, now, commands)


def _take_from(
    books: Books,
    view: InstanceView,
    attempt: Attempt,
    ending: Ending,
    cause: FailureCause,
    now: float,
    commands: list[Command],
) -> None:
    """What runs there goes elsewhere, or fails where the client has part of the answer."""
    commands.append(Abort(attempt.request.id, attempt.number, view.instance_id))
    books.give_back(attempt, view, ending, now)
    recover(books, attempt, 0, cause, now, commands)


def _replace_waiting(books: Books, view: InstanceView, now: float, commands: list[Command]) -> None:
    gone = books.instances.get(view.instance_id) is not view
    leave = [a for a in view.waiting if gone or _runs_elsewhere(books, a.request if a.lease else a.asked, view)]
    _place_again(books, view, leave, now, commands)


def _replace_unable(books: Books, view: InstanceView, now: float, commands: list[Command]) -> None:
    """What waits for a model that the instance serves no more goes elsewhere; what it goes on from stays."""
    unable = [a for a in view.waiting if a.request.home is None and not view.can_run(a.request)]
    _place_again(books, view, unable, now, commands)


def _waits_to_fetch(attempt: Attempt, view: InstanceView) -> bool:
    """Whether the prompt that it is to fetch is there."""
    lease = attempt.lease
    return lease is not None and (lease.instance_id, lease.incarnation) == (view.instance_id, view.incarnation)


def _place_again(
    books: Books, view: InstanceView, attempts: list[Attempt], now: float, commands: list[Command]
) -> None:
    for attempt in attempts:  # all of them first: placing one lets instances take others
        books.give_back(attempt, view, Ending.LEFT, now)
    for attempt in attempts:
        place(
            books,
            attempt.asked,
            now,
            commands,
            number=attempt.number,
            arrived_at=attempt.arrived_at,
            tried=attempt.tried,
            held_s=attempt.held_s,
            legs_done=attempt.legs_done,
            lease=attempt.lease,
        )


def _runs_elsewhere(books: Books, request: Request, view: InstanceView) -> bool:
    """Whether another instance that takes requests can run it."""
    able = books.offers.fleet(request).able
    return any(i != view.instance_id and (not request.only or i in request.only) for i in able)
