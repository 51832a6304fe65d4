"""What the driver tells of an attempt that runs: its first output, its end, its failure.

Each function says whether the event was about an attempt that is not over; if not, nothing has happened.
"""

from dualmap.scheduler.attempt import AttemptState, Ending
from dualmap.scheduler.commands import Command
from dualmap.scheduler.core.arrival import place, recover
from dualmap.scheduler.core.books import Books
from dualmap.scheduler.core.membership import suspect
from dualmap.scheduler.core.release import dispatch, end, release
from dualmap.scheduler.events import (
    FailureCause,
    FirstToken,
    PrefillDone,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    ServedElsewhere,
)
from dualmap.scheduler.lease import Lease
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.role import PREFILL

# An instance that shuts down aborts each new request at once, one that wants another key refuses each: it would look
# idle and attract more. Not ERROR, which a request may bring about wherever it runs.
SUSPICIOUS = (FailureCause.CONNECT, FailureCause.ABORTED, FailureCause.UNAUTHORIZED)
# The instance has computed nothing of the prompt.
NEVER_RAN = (
    FailureCause.CONNECT,
    FailureCause.REFUSED,
    FailureCause.UNAUTHORIZED,
    FailureCause.NOT_HERE,
    FailureCause.TOO_LONG,
    FailureCause.LEG_REFUSED,
)


def first_token(books: Books, event: FirstToken, now: float, commands: list[Command]) -> bool:
    attempt = books.running(event.request_id, event.attempt)
    if attempt is None or attempt.started or attempt.request.leg is PREFILL:
        return False
    if attempt.request.goes_on_after:
        pass  # its client's first token was counted
    elif now <= attempt.deadline_s:
        books.stats.slo_kept += 1
    else:
        books.stats.slo_missed += 1
        if attempt.lease is not None and attempt.lease.late:
            books.stats.missed_by_legs += 1
    view = books.instances[attempt.instance_id]
    lender = None
    if attempt.lease is not None:
        lender = books.end_lease(attempt, attempt.lease)
    if attempt.state is AttemptState.PREFILLING:
        if attempt.lease is not None:
            view.fetched(attempt, now)
        elif attempt.request.streams:
            view.observe_prefill(attempt, now)
        else:
            view.speed.starts(now)  # what is seen is the end of its answer, not that of its prefill
        view.began(attempt, now)
        if view.others.waiting:
            books.untold.tell(commands)
        release(books, view, now, commands)
    else:
        view.began(attempt, now)
    if lender is not None:
        release(books, lender, now, commands)
    return True


def prefill_done(books: Books, event: PrefillDone, now: float, commands: list[Command]) -> bool:
    attempt = books.running(event.request_id, event.attempt)
    if attempt is None or attempt.request.leg is not PREFILL:
        return False
    late = now > attempt.deadline_s
    if late:
        books.stats.legs_missed += 1
    else:
        books.stats.legs_kept += 1
    view = books.instances[attempt.instance_id]
    view.observe_prefill(attempt, now)
    view.began(attempt, now)
    if event.cached_tokens is not None and event.prompt_tokens is not None:
        view.learn_from_usage(attempt, event.prompt_tokens, event.cached_tokens, now)
    books.give_back(attempt, view, Ending.PREFILLED, now)
    lease = Lease(
        view.instance_id,
        view.incarnation,
        ran_s=now - attempt.dispatched_at,
        late=late,
        until=now + books.config.kv_lease_s,
        revision=view.offer.revision,
    )
    place(
        books,
        attempt.asked,
        now,
        commands,
        number=attempt.number + 1,
        arrived_at=attempt.arrived_at,
        tried=attempt.tried,
        held_s=attempt.held_s,
        legs_done=attempt.legs_done + 1,
        lease=lease,
    )
    placed = books.attempts.get(attempt.request.id)
    if placed is None or placed.lease is not lease:  # nobody will fetch it
        books.end_lease(attempt, lease)
    if view.others.waiting:
        books.untold.tell(commands)
    release(books, view, now, commands)
    return True


def served_elsewhere(books: Books, event: ServedElsewhere, now: float, commands: list[Command]) -> bool:
    attempt = books.running(event.request_id, event.attempt)
    view = books.instances.get(event.instance_id)
    if attempt is None or view is None or attempt.started or attempt.instance_id == event.instance_id:
        return False
    if attempt.whole is not None:  # a proxy sends requests whole
        return False
    unreached = books.instances[attempt.instance_id]
    suspect(books, unreached, now, commands)
    books.give_back(attempt, unreached, Ending.REDIRECTED, now)
    attempt = books.attempts[event.request_id] = attempt.followed()
    attempt.place_at(view.estimate_ttft(attempt.request), ChoiceReason.REDIRECTED, now)
    dispatch(books, view, attempt, now, commands)
    release(books, unreached, now, commands)
    return True


def request_finished(books: Books, event: RequestFinished, now: float, commands: list[Command]) -> bool:
    attempt = books.running(event.request_id, event.attempt)
    if attempt is None:
        return False
    books.answers.observe(event.output_tokens)
    view = books.instances[attempt.instance_id]
    tpot_s = view.answered(attempt, event.output_tokens - attempt.request.sent_tokens, now)
    if tpot_s is not None and attempt.tpot_slo_s:
        books.stats.tpot_used += tpot_s / attempt.tpot_slo_s
        if tpot_s <= attempt.tpot_slo_s:
            books.stats.tpot_kept += 1
        else:
            books.stats.tpot_missed += 1
    if event.cached_tokens is not None and event.prompt_tokens is not None:
        view.learn_from_usage(attempt, event.prompt_tokens, event.cached_tokens, now)
    end(books, attempt, Ending.FINISHED, now, commands)
    return True


def request_failed(books: Books, event: RequestFailed, now: float, commands: list[Command]) -> bool:
    attempt = books.running(event.request_id, event.attempt)
    if attempt is None:
        return False
    view = books.instances[attempt.instance_id]
    if event.cause in NEVER_RAN or (attempt.lease is not None and not attempt.started):  # it has fetched nothing
        view.never_ran(attempt)
    if event.cause in SUSPICIOUS:
        suspect(books, view, now, commands)
    end(books, attempt, Ending.FAILED, now, commands)
    recover(books, attempt, event.tokens_sent, event.cause, now, commands)
    return True


def request_cancelled(books: Books, event: RequestCancelled, now: float, commands: list[Command]) -> bool:
    attempt = books.attempts.get(event.request_id)
    if attempt is None:
        return books.held.remove(event.request_id)
    end(books, attempt, Ending.CANCELLED, now, commands)
    return True
