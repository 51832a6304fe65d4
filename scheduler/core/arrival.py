"""A request gets its place: when it comes, and again where its attempt failed or its instance is gone."""

from collections.abc import Set
from dataclasses import replace

from dualmap.scheduler.admission import (
    least_important,
    place_with_room,
    queue_is_full,
    reject_exhausted,
    reject_no_instance,
    reject_queue_full,
    reject_too_many,
)
from dualmap.scheduler.attempt import Attempt, Ending
from dualmap.scheduler.commands import Command, FailStream, Reject
from dualmap.scheduler.core.books import Books
from dualmap.scheduler.core.legs import choose_decoder, first_leg
from dualmap.scheduler.core.release import can_start, dispatch, end, release
from dualmap.scheduler.errors import ContractError
from dualmap.scheduler.events import FailureCause, RequestArrived, StreamContinued
from dualmap.scheduler.held_requests import Held
from dualmap.scheduler.lease import Lease
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.recovery import Fate, decide_fate
from dualmap.scheduler.request import BEFORE_ALL, ChoiceReason, Request
from dualmap.scheduler.role import DECODE, PREFILL
from dualmap.scheduler.untold import SHORT_S

NOBODY: frozenset[str] = frozenset()


def request_arrived(books: Books, event: RequestArrived, now: float, commands: list[Command]) -> None:
    request = event.request
    _must_be_new(books, request)
    books.stats.arrived += 1
    if books.in_flight >= books.config.max_in_flight:
        shed = least_important(request, books.instances.values())
        if shed is not None:
            _shed(books, shed, now, commands)
        elif not _shed_held(books, request, commands):
            reject(books, request, reject_too_many(request.id, books.mean_backlog_s(request)), commands)
            return
    place(books, request, now, commands, number=1, arrived_at=now)
    if (attempt := books.attempts.get(request.id)) is not None:
        books.stats.arrived_work_tokens += attempt.work_tokens
        if attempt.whole is not None:  # a lease, which a decode leg has, is none of a request that has just come
            books.stats.arrived_legs += 1
            books.stats.arrived_leg_tokens += attempt.work_tokens
    elif request.id in books.held:
        books.stats.arrived_work_tokens += request.prompt_tokens  # by who computes it, nothing is known to be cached


def stream_continued(books: Books, event: StreamContinued, now: float, commands: list[Command]) -> None:
    """The rest of an answer goes before all that waits, since its client sits in the middle of the answer; but nobody
    has to leave for it. It is no new request: neither its arrival nor its first token counts."""
    request = event.request
    _must_be_new(books, request)
    if books.in_flight >= books.config.max_in_flight:
        reject(books, request, reject_too_many(request.id, books.mean_backlog_s(request)), commands)
        return
    # The client's time-out is for the first token. What is left of an answer is one leg, whatever its request was.
    request = replace(request, priority=BEFORE_ALL, timeout_s=None, may_split=False)
    number = request.goes_on_after + 1
    place(books, request, now, commands, number=number, arrived_at=now, tried=frozenset(event.tried))


def recover(
    books: Books, attempt: Attempt, tokens_sent: int, cause: FailureCause, now: float, commands: list[Command]
) -> None:
    """Decide on a request whose attempt failed; the attempt has been taken off the books. One whose leg was refused
    runs whole, and that leg is none of its tries: what the client has asked for was not refused. So does one whose
    decode leg was silent: vLLM waits for ever for a prompt that another connector has handed over."""
    too_long = cause is FailureCause.TOO_LONG
    leg_refused = cause is FailureCause.LEG_REFUSED and attempt.whole is not None
    last = not books.takes_longer(attempt) if too_long else books.is_last(attempt) and not leg_refused
    match decide_fate(attempt, tokens_sent, cause, last=last):
        case Fate.FAIL:
            if not attempt.started:
                _count_missed(books, attempt.request)
            commands.append(FailStream(attempt.request.id, cause))
        case Fate.GIVE_UP:
            reject(books, attempt.request, reject_exhausted(attempt.request.id), commands)
        case Fate.RETRY:
            books.stats.retries += 1
            tried = attempt.tried | {attempt.instance_id}
            number, arrived_at = attempt.number + 1, attempt.arrived_at
            request = attempt.asked
            if too_long:
                taken = books.instances[attempt.instance_id].takes_tokens(request)
                request = replace(request, length_tokens=max(request.length_tokens, int(taken) + 1))
            elif leg_refused or (attempt.lease is not None and cause is FailureCause.STALLED):
                request = replace(request, may_split=False)
            place(
                books,
                request,
                now,
                commands,
                number=number,
                arrived_at=arrived_at,
                tried=tried,
                held_s=attempt.held_s,
                legs_done=attempt.legs_done + leg_refused,
            )


def reject(books: Books, request: Request, rejected: Reject, commands: list[Command]) -> None:
    _count_missed(books, request)
    commands.append(rejected)


def _count_missed(books: Books, request: Request) -> None:
    """Its first token never comes."""
    if not request.goes_on_after:
        books.stats.slo_missed += 1
        if request.leg is PREFILL:
            books.stats.legs_missed += 1
            books.stats.missed_by_legs += 1


def choose(books: Books, request: Request, tried: frozenset[str], now: float) -> Placement | None:
    """Avoid suspects and instances that failed the request, as long as others are left; always those that cannot
    run it. A request that has a home goes there, also while that drains."""
    if request.home is not None:
        home = books.instances.get(request.home)
        if home is None:
            return None
        estimate = home.estimate_ttft(request)
        return Placement(estimate, (home.instance_id,), ChoiceReason.HOME, considered=(estimate,))
    slo_s = request.ttft_slo_s or books.config.ttft_slo_s
    suspects = books.suspects
    offers = books.offers
    if request.length_tokens <= offers.all_take.get(request.adapter or request.model, -1):
        unable = NOBODY
    else:
        unable = offers.fleet(request).unable
    if request.only:
        unable |= books.instances.keys() - set(request.only)
    avoid: Set[str] = suspects | tried | unable if suspects or tried or unable else tried
    placement = books.policy.place(request, slo_s, avoid, now)
    if placement is None and suspects:
        placement = books.policy.place(request, slo_s, tried | unable, now)
    if placement is None and tried:
        placement = books.policy.place(request, slo_s, unable, now)
    return placement


def place(
    books: Books,
    request: Request,
    now: float,
    commands: list[Command],
    *,
    number: int,
    arrived_at: float,
    tried: frozenset[str] = frozenset(),
    held_s: float = 0.0,
    legs_done: int = 0,
    lease: Lease | None = None,
) -> None:
    """Give the request its attempt of that number, hold it, or reject it. tried: instances on which earlier ones
    failed. held_s: for how long no instance could run it before. legs_done, lease: see Attempt; what has gone
    meanwhile, or may have, is no lease."""
    config = books.config
    goes_on = request.goes_on_after > 0
    asked = request
    if lease is not None and (now >= lease.until or books.leasing(lease) is None):
        lease = None
    placement = None
    if lease is not None:
        request = asked.leg_of(DECODE, lease.revision)
        placement = choose_decoder(books, request, tried)
    if placement is None:
        request, lease = asked, None
        if books.offers.has_roles:
            request = first_leg(books, asked, tried)
        placement = choose(books, request, tried, now)
    if placement is None:
        held = Held(asked, number, arrived_at, since=now, held_s=held_s, tried=tried, legs_done=legs_done)
        _hold(books, held, commands)
        return
    estimate, reason = placement.estimate, placement.reason
    deadline_s = arrived_at + (request.ttft_slo_s or config.ttft_slo_s)
    view = books.instances[estimate.instance_id]
    if queue_is_full(view, config):
        candidates = [books.instances[instance_id] for instance_id in placement.candidates]
        elsewhere = place_with_room(request, candidates, config)
        if elsewhere is not None:
            estimate, reason = elsewhere, ChoiceReason.SWITCHED
            view = books.instances[estimate.instance_id]
        else:
            in_time = now + estimate.total_s <= deadline_s
            shed = None if goes_on else view.waiting.least_important(request, estimate.work_tokens, in_time)
            if shed is None:
                reject(books, request, reject_queue_full(request, view), commands)
                return
            _shed(books, shed, now, commands)
    attempt = books.attempts[request.id] = Attempt(
        request=request,
        number=number,
        arrived_at=arrived_at,
        instance_id=estimate.instance_id,
        candidates=placement.candidates,
        reason=reason,
        estimated_ttft_s=estimate.total_s + (now - arrived_at),
        cached_tokens=estimate.cached_tokens,
        uncached_tokens=estimate.uncached_tokens,
        work_tokens=estimate.work_tokens,
        deadline_s=deadline_s,
        tried=tried,
        considered=placement.considered,
        shared_blocks=placement.shared_blocks,
        tpot_slo_s=config.tpot_slo_s if request.tpot_slo_s is None else request.tpot_slo_s,
        whole=None if request is asked else asked,
        lease=lease,
        legs_done=legs_done,
        held_s=held_s,
        loads=estimate.loads,
    )
    if lease is not None:
        books.begin_lease(attempt, lease)
    if placement.finds_hot:
        books.tell_waiting_of_hot()
    first = goes_on or (not len(view.waiting) and not view.others.waiting)
    untold = books.untold.asks and not goes_on and attempt.work_tokens * view.seconds_per_token >= SHORT_S
    if not books.policy.holds_requests or (first and not untold and can_start(books, view, attempt, now)):
        dispatch(books, view, attempt, now, commands)
        if request.timeout_s is not None:
            books.time_outs.watch(attempt)
        return
    view.enqueue(attempt)
    books.time_outs.watch(attempt)
    books.long_waits.watch(attempt)
    if untold:
        books.untold.tell_of(attempt, now, commands)
    release(books, view, now, commands)


def _must_be_new(books: Books, request: Request) -> None:
    if request.id in books.attempts or request.id in books.held:
        raise ContractError(f"request id {request.id!r} is in flight already")


def _hold(books: Books, held: Held, commands: list[Command]) -> None:
    """No instance can run it: it waits for one that can, where it may. What it goes on from would not come back."""
    request, config = held.request, books.config
    if request.stateful or held.held_s >= (config.cold_start_timeout_s or 0.0):
        reject(books, request, reject_no_instance(request.id), commands)
    elif len(books.held) < config.max_waiting or _shed_held(books, request, commands):
        books.held.add(held)
    else:
        reject(books, request, reject_too_many(request.id, 0.0), commands)


def _shed_held(books: Books, request: Request, commands: list[Command]) -> bool:
    """Whether one that is held makes room for the request."""
    shed = None if request.goes_on_after else books.held.least_important(request)
    if shed is None:
        return False
    books.held.remove(shed.request.id)
    reject(books, shed.request, reject_too_many(shed.request.id, 0.0), commands)
    return True


def _shed(books: Books, attempt: Attempt, now: float, commands: list[Command]) -> None:
    """One that waits makes room for another."""
    request = attempt.request
    reject(books, request, reject_queue_full(request, books.instances[attempt.instance_id]), commands)
    end(books, attempt, Ending.SHED, now, commands)
