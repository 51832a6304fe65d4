"""Less, faster or more of a workload. Each function returns a new workload and leaves the given one as it is.

Larger clusters need more load of the same structure: `copies` lays a trace over itself, `resample_sessions` draws from
a trace of few sessions. Both give what is private to a chat new hashes, so that copies share no more than strangers
would, and keep those of system prompts, which strangers do share.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from dualmap.loadtest.traces.sessions import SHARED_BRANCHES
from dualmap.loadtest.traces.trace import BLOCK_TOKENS
from dualmap.loadtest.traces.workload import Workload, WorkRequest, in_order


def limit(
    workload: Workload,
    n: int | None = None,
    *,
    max_prompt_tokens: int | None = None,
    window: tuple[float, float] | None = None,
) -> Workload:
    """The first n of the requests whose prompt is not longer than max_prompt_tokens, and that arrive in the window:
    seconds from and, not included, to.

    A follow-up of a dropped request follows that one's predecessor, or starts by the trace's clock.
    """
    stands_for: list[int | None] = []  # for each request its place in the result, or that of what it followed
    found: list[WorkRequest] = []
    for request in workload.requests:
        after = None if request.after is None else stands_for[request.after]
        too_long = max_prompt_tokens is not None and request.prompt_tokens > max_prompt_tokens
        if too_long or (window is not None and not window[0] <= request.arrival_s < window[1]):
            stands_for.append(after)
            continue
        if n is not None and len(found) >= n:
            break
        stands_for.append(len(found))
        copy = _copy(request)
        copy.after = after
        copy.think_s = 0.0 if after is None else request.think_s
        found.append(copy)
    return in_order(workload.name, found)


def at_rate(workload: Workload, qps: float) -> Workload:
    """The same requests at qps requests a second on average, counted over the time in which starts come.

    Starts move together or apart; follow-ups keep their think times. Raises ValueError where all starts come at once.
    """
    starts_s = [r.arrival_s for r in workload.requests if r.after is None]
    span_s = starts_s[-1] - starts_s[0] if starts_s else 0.0
    if qps <= 0 or span_s <= 0:
        raise ValueError(
            f"{workload.name}: rate must be above 0 and starts spread over time, found {qps} requests/s over"
            f" {span_s:.0f} s; drawing sessions (--sessions, resample_sessions) spreads them"
        )
    factor = len(workload.requests) / qps / span_s
    shifts_s: list[float] = []
    found = []
    for request in workload.requests:
        if request.after is None:
            shifts_s.append((request.arrival_s - starts_s[0]) * factor - request.arrival_s)
        else:
            shifts_s.append(shifts_s[request.after])
        copy = _copy(request)
        copy.arrival_s += shifts_s[-1]
        found.append(copy)
    return in_order(workload.name, found)


def copies(workload: Workload, n: int, seed: int = 0) -> Workload:
    """n overlays of the workload: n times the rate, the same structure.

    The first stays as it is. Each other is moved by a random part of the duration, and what moves beyond the end comes
    at the beginning. A chat that arrives by the clock and is cut so goes on there as a chat of its own, as one does
    that began before the trace; a chat that waits for its turns moves as a whole.
    """
    rng = random.Random(seed)
    requests = workload.requests
    shared = shared_lengths(requests)
    sessions = 1 + max((r.session for r in requests), default=0)
    duration_s = _duration_s(requests)
    found = [_copy(request) for request in requests]
    for number in range(1, n):
        shift_s = rng.uniform(0.0, duration_s)
        salts = rng.getrandbits(64), rng.getrandbits(64)
        base = len(found)
        wraps: list[bool] = []
        for request, lead in zip(requests, shared, strict=True):
            if request.after is None:
                wraps.append(request.arrival_s + shift_s >= duration_s)
            else:
                wraps.append(wraps[request.after])
            copy = renumbered(request, lead, salts[wraps[-1]])
            copy.arrival_s += shift_s - (duration_s if wraps[-1] else 0.0)
            copy.session += sessions * (2 * number + wraps[-1])
            if copy.after is not None:
                copy.after += base
            found.append(copy)
    return in_order(workload.name, found)


def resample_sessions(workload: Workload, count: int, seed: int = 0, *, qps: float | None = None) -> Workload:
    """`count` sessions drawn with replacement, each with its own blocks, starting as a Poisson process.

    qps: mean rate of requests while sessions start; by default that of the workload over its duration. Within a session
    times stay as they are.
    """
    rng = random.Random(seed)
    shared = shared_lengths(workload.requests)
    members: dict[int, list[int]] = defaultdict(list)
    for index, request in enumerate(workload.requests):
        members[request.session].append(index)
    drawn = rng.choices(list(members.values()), k=count)
    if qps is None:
        qps = len(workload.requests) / _duration_s(workload.requests)
    sessions_per_s = qps * count / sum(map(len, drawn))
    found: list[WorkRequest] = []
    start_s = 0.0
    for session, indices in enumerate(drawn):
        salt = rng.getrandbits(64)
        origin_s = workload.requests[indices[0]].arrival_s
        places: dict[int, int] = {}
        for index in indices:
            request = renumbered(workload.requests[index], shared[index], salt)
            request.arrival_s += start_s - origin_s
            request.session = session
            request.after = None if request.after is None else places[request.after]
            places[index] = len(found)
            found.append(request)
        start_s += rng.expovariate(sessions_per_s)
    return in_order(workload.name, found)


def _copy(request: WorkRequest) -> WorkRequest:
    """What dataclasses.replace does, in a fifth of its time."""
    return WorkRequest(
        request.arrival_s,
        request.prompt_tokens,
        request.output_tokens,
        request.blocks,
        request.answer_blocks,
        request.session,
        request.after,
        request.think_s,
    )


def renumbered(request: WorkRequest, shared_blocks: int, salt: int) -> WorkRequest:
    """A copy with other hashes but for the first shared_blocks; equal ones stay equal under one salt."""
    copy = _copy(request)
    blocks = request.blocks
    copy.blocks = (*blocks[:shared_blocks], *[block ^ salt for block in blocks[shared_blocks:]])
    if request.answer_blocks:
        copy.answer_blocks = tuple([block ^ salt for block in request.answer_blocks])
    return copy


def _duration_s(requests: Sequence[WorkRequest]) -> float:
    """With the pause after the last arrival that is usual between two."""
    span_s = requests[-1].arrival_s - requests[0].arrival_s
    return span_s * len(requests) / (len(requests) - 1) if span_s else 1.0


def shared_lengths(requests: Sequence[WorkRequest]) -> list[int]:
    """How many of each request's leading blocks belong to a prefix that many sessions share.

    Such a prefix ends as in sessions.py, where SHARED_BRANCHES different full blocks follow, and as many
    sessions have it: the sub-agents of one session branch too.
    """
    followers: dict[int, set[int]] = defaultdict(set)
    for request in requests:
        for block, follower in pairwise(request.blocks[: request.prompt_tokens // BLOCK_TOKENS]):
            followers[block].add(follower)
    ends = {block for block, after in followers.items() if len(after) >= SHARED_BRANCHES}
    sessions: dict[int, set[int]] = defaultdict(set)
    for request in requests:
        for block in ends.intersection(request.blocks):
            sessions[block].add(request.session)
    ends = {block for block in ends if len(sessions[block]) >= SHARED_BRANCHES}
    return [max((i for i, block in enumerate(r.blocks, 1) if block in ends), default=0) for r in requests]
