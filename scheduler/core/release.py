"""What starts, and where: each instance starts of its own queue what it has room for, and of others' queues where that
pays."""

from heapq import heappush

from dualmap.scheduler.attempt import Attempt, Ending
from dualmap.scheduler.commands import Command, Dispatch
from dualmap.scheduler.core.books import Books
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.role import DECODE
from dualmap.scheduler.steal import overdue_to_take, request_to_take
from dualmap.scheduler.untold import SHORT_S

# Of its objective for the first token: so long a request waits at the most that would slow others' tokens down beyond
# their objective. Longer, and what is held back comes all at once, and late.
HELD_SHARE = 0.1


def release(books: Books, view: InstanceView, now: float, commands: list[Command]) -> None:
    """Dispatch what the instance can start: of its own queue and of those that have waited for too long elsewhere;
    then, if it would idle, from another's queue."""
    config = books.config
    while len(view.waiting) and view.room.is_there(config.release_window_s):
        attempt = view.room.next_waiting(now)
        if attempt is None or books.untold.keeps(attempt, now) or view.room.is_others(attempt, now):
            return
        if _take_overdue(books, view, attempt, now, commands):
            continue
        if not view.room.for_kv(attempt.request, books.answers.expected(attempt.request)):
            return
        if not _may_decode(view, attempt, now):
            books.holding.add(view.instance_id)
            return
        view.take_out(attempt, starts=True)
        dispatch(books, view, attempt, now, commands)
    nobody_waits = not len(view.waiting) and not view.others.waiting
    if config.taking and books.loads.waiting and nobody_waits and not view.draining:
        _take_from_others(books, view, now, commands)


def can_start(books: Books, view: InstanceView, attempt: Attempt, now: float) -> bool:
    request = attempt.request
    if not view.room.is_there(books.config.release_window_s) or request.tenant in view.room.crowding():
        return False
    return view.room.for_kv(request, books.answers.expected(request)) and _may_decode(view, attempt, now)


def dispatch(books: Books, view: InstanceView, attempt: Attempt, now: float, commands: list[Command]) -> None:
    request = attempt.request
    view.dispatch(attempt, books.answers.expected(request), now)
    if request.session and request.leg is not DECODE:  # its next turn is computed where this one was
        books.sessions.note(request.session, view.instance_id)
    if not request.streams:
        heappush(books.assumed, (now + view.prefilling_s, request.id, attempt.number))
    commands.append(
        Dispatch(
            request.id,
            attempt.number,
            view.instance_id,
            reason=attempt.reason,
            queued_s=now - attempt.arrived_at - (0.0 if attempt.lease is None else attempt.lease.ran_s),
            estimated_ttft_s=attempt.estimated_ttft_s,
            cached_tokens=attempt.cached_tokens,
            last=books.is_last(attempt),
            longer=not books.offers.alike and books.takes_longer(attempt),
            leg=request.leg,
            loads=attempt.loads,
        )
    )
    if attempt.work_tokens * view.seconds_per_token >= SHORT_S:
        books.untold.tell(commands)


def end(books: Books, attempt: Attempt, ending: Ending, now: float, commands: list[Command]) -> None:
    """Give back all the attempt has booked, and let the next in the queues start."""
    view = books.instances[attempt.instance_id]
    lender = books.give_back(attempt, view, ending, now)
    release(books, view, now, commands)
    if lender is not None:
        release(books, lender, now, commands)


def _take_from_others(books: Books, view: InstanceView, now: float, commands: list[Command]) -> None:
    if view.instance_id in books.suspects or view.reported.stale:
        return
    config = books.config
    while view.room.is_there(config.release_window_s):
        if _take_overdue(books, view, None, now, commands):
            continue
        decode_price_s = config.decode_s_per_request * books.answers.mean_tokens
        found = request_to_take(
            view,
            books.loads,
            books.offers.peers(view.instance_id),
            books.recompute_price(view),
            decode_price_s,
            config.min_move_gain_s,
        )
        if found is None:
            return
        source, attempt = found
        if not can_start(books, view, attempt, now):
            return
        if books.untold.asks:
            _bring(books, attempt, source, view, now)
            books.untold.tell_of(attempt, now, commands)
            release(books, source, now, commands)
            return
        _take(books, attempt, source, view, now, commands)


def _take_overdue(books: Books, view: InstanceView, own: Attempt | None, now: float, commands: list[Command]) -> bool:
    """Dispatch who has waited for too long elsewhere, instead of its own next, if any."""
    may_take = books.config.taking and books.config.deadline_order
    if not may_take or view.draining or view.instance_id in books.suspects:
        return False
    for attempt in overdue_to_take(view, own, books.long_waits, now):
        if can_start(books, view, attempt, now):
            _take(books, attempt, books.instances[attempt.instance_id], view, now, commands)
            return True
    return False


def _take(
    books: Books, attempt: Attempt, source: InstanceView, view: InstanceView, now: float, commands: list[Command]
) -> None:
    _bring(books, attempt, source, view, now)
    view.take_out(attempt, starts=True)  # a turn of its tenant
    dispatch(books, view, attempt, now, commands)
    release(books, source, now, commands)  # where it stood first, the next may fit


def _bring(books: Books, attempt: Attempt, source: InstanceView, view: InstanceView, now: float) -> None:
    source.take_out(attempt)
    attempt.place_at(view.estimate_ttft(attempt.request), ChoiceReason.TAKEN, now)
    books.stats.requests_taken += 1
    view.enqueue(attempt)


def _may_decode(view: InstanceView, attempt: Attempt, now: float) -> bool:
    """Whether nobody's tokens would be late by it, or it has waited for that long enough."""
    held_s = HELD_SHARE * (attempt.deadline_s - attempt.arrived_at)
    if now - attempt.arrived_at >= held_s:
        return True
    return view.room.for_tokens(attempt.request.prompt_tokens, attempt.tpot_slo_s)
