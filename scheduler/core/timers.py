"""What happens because time has passed."""

from heapq import heappop

from dualmap.scheduler.admission import reject_timed_out
from dualmap.scheduler.attempt import AttemptState, Ending
from dualmap.scheduler.commands import Abort, Command, RejectReason
from dualmap.scheduler.core.arrival import reject
from dualmap.scheduler.core.books import LOOK_INTERVAL_S, Books
from dualmap.scheduler.core.cold_start import end_overdue
from dualmap.scheduler.core.membership import leave_old_leases, leave_silent
from dualmap.scheduler.core.release import release
from dualmap.scheduler.instance.view import InstanceView


def tick(books: Books, now: float, commands: list[Command]) -> None:
    if len(books.held):
        end_overdue(books, now, commands)
    _end_timed_out(books, now, commands)  # before anything starts: none of these shall
    _assume_first_tokens(books, now, commands)
    books.shorten_ended()
    books.suspects = {i for i in books.suspects if books.instances[i].suspect_until > now}
    if books.untold.is_unanswered(now):
        for view in books.instances.values():
            release(books, view, now, commands)
    if books.hears_others:
        _age_others(books, now, commands)
    if books.slow:
        _ramp_up(books, now, commands)
    if books.holding:
        holding, books.holding = sorted(books.holding), set()
        for view in filter(None, map(books.instances.get, holding)):
            release(books, view, now, commands)
    if books.looked_at is None or now >= books.looked_at + LOOK_INTERVAL_S:
        elapsed_s = 0.0 if books.looked_at is None else now - books.looked_at
        books.looked_at = now
        for view in books.instances.values():
            view.look_around(elapsed_s, now)
            release(books, view, now, commands)
        leave_silent(books, elapsed_s, now, commands)
        leave_old_leases(books, now, commands)


def _ramp_up(books: Books, now: float, commands: list[Command]) -> None:
    books.slow = [v for v in books.slow if v.service.ramp < 1.0 and books.instances.get(v.instance_id) is v]
    for view in books.slow:
        view.ramp_up(now)
        release(books, view, now, commands)


def _age_others(books: Books, now: float, commands: list[Command]) -> None:
    for view in books.instances.values():
        if view.age_others(now):
            release(books, view, now, commands)
    if all(view.others.load is None for view in books.instances.values()):
        books.loads.rivals = None
        books.hears_others = False


def _assume_first_tokens(books: Books, now: float, commands: list[Command]) -> None:
    """An answer that is not streamed shows no first token: its prefill is taken to end when estimated."""
    while books.assumed and books.assumed[0][0] <= now:
        _, request_id, number = heappop(books.assumed)
        attempt = books.running(request_id, number)
        if attempt is not None and attempt.state is AttemptState.PREFILLING:
            view = books.instances[attempt.instance_id]
            lender = None
            if attempt.lease is None:
                view.speed.starts(now)
            elif (lender := books.leasing(attempt.lease)) is not None:
                lender.booked.free_lent(attempt.request)
            view.assume_prefilled(attempt)
            release(books, view, now, commands)
            if lender is not None:
                release(books, lender, now, commands)


def _end_timed_out(books: Books, now: float, commands: list[Command]) -> None:
    freed: dict[str, InstanceView] = {}
    for attempt in books.time_outs.pop_due(now):  # all of them first: another that is due must not start meanwhile
        request = attempt.request
        view = freed[attempt.instance_id] = books.instances[attempt.instance_id]
        if attempt.state is AttemptState.WAITING:
            reason = RejectReason.QUEUE_TIMEOUT
        else:
            reason = RejectReason.FIRST_TOKEN_TIMEOUT
            commands.append(Abort(request.id, attempt.number, view.instance_id))
        lender = books.give_back(attempt, view, Ending.TIMED_OUT, now)
        if lender is not None:
            freed[lender.instance_id] = lender
        reject(books, request, reject_timed_out(request, view, reason), commands)
    for view in freed.values():
        release(books, view, now, commands)
