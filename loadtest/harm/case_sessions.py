"""The requests of a case: sessions that begin at random, some with a hot prefix, each turn after the one before it."""

import random
from collections.abc import Iterator
from math import exp, floor

from dualmap.loadtest.harm.case import BLOCK_TOKENS, LONGEST_TOKENS, Case
from dualmap.loadtest.harm.case_cluster import cache_blocks, fleet_speed, profile_of, request_s
from dualmap.loadtest.traces.workload import Workload, WorkRequest, in_order

SAMPLE = 300  # sessions by which the work of a request is estimated
MAX_STEPS = 300_000  # of all engines together: about three seconds of computing
ALONE_S_PER_TOKEN = 0.015  # about what a token of an answer takes at a busy instance

Turn = tuple[int, int]  # tokens of the prompt, and of the answer


def workload_of(case: Case) -> Workload:
    rng = random.Random(f"{case.seed} sessions")
    prefixes = _hot_prefixes(case)
    qps = requests_per_s(case)
    count = request_count(case, qps)
    found: list[WorkRequest] = []
    for number, start_s in enumerate(_starts_s(case, qps)):
        if len(found) >= count and sum(request.arrival_s <= start_s for request in found) >= count:
            break
        _add_session(found, number, start_s, case, rng, prefixes)
    workload = in_order("harm", found)
    del workload.requests[count:]
    return workload


def requests_per_s(case: Case) -> float:
    """The part of what the fleet bears that the case asks for, where a turn finds the one before it by chance only."""
    rng = random.Random(f"{case.seed} sample")
    fits = case.hot_prefixes * case.hot_blocks <= cache_blocks(case) / 2
    lengths: list[tuple[int, int, int]] = []
    for _ in range(SAMPLE):
        hot_tokens = case.hot_blocks * BLOCK_TOKENS if rng.random() < case.hot_share else 0
        shared = hot_tokens if fits else 0
        before = 0
        for prompt, answer in _turns(case, rng, hot_tokens):
            cached = max(shared, round(before / case.instances))
            lengths.append((min(cached, prompt - 1), prompt, answer))
            before = prompt + answer
    return case.utilisation * fleet_speed(case) / request_s(case, lengths)


def request_count(case: Case, qps: float) -> int:
    """As many as asked for, unless all engines together would take too many steps meanwhile."""
    steps_per_s = case.instances / (profile_of(case).step_base_s * 1.3)
    return max(min(case.requests, round(MAX_STEPS / steps_per_s * qps)), min(case.requests, 100))


def _hot_prefixes(case: Case) -> list[tuple[int, ...]]:
    rng = random.Random(f"{case.seed} prefixes")
    return [tuple(rng.getrandbits(64) for _ in range(case.hot_blocks)) for _ in range(case.hot_prefixes)]


def _starts_s(case: Case, qps: float) -> Iterator[float]:
    """Of sessions, from so long before 0 that the load is steady at 0."""
    rng = random.Random(f"{case.seed} starts")
    within_per_s = qps / case.turns * case.burst_factor
    at_s = -_session_s(case) / case.burst_factor
    while True:
        at_s += rng.expovariate(within_per_s)
        if case.burst_factor == 1:
            yield at_s
        else:
            burst, since_s = floor(at_s / case.burst_s), at_s % case.burst_s
            yield burst * case.burst_s * case.burst_factor + since_s


def _session_s(case: Case) -> float:
    return (case.turns - 1) * (case.think_s + case.answer_tokens * ALONE_S_PER_TOKEN / case.speed)


def _add_session(
    found: list[WorkRequest],
    number: int,
    start_s: float,
    case: Case,
    rng: random.Random,
    prefixes: list[tuple[int, ...]],
) -> None:
    """Turns from before 0 are left out."""
    hot = rng.random() < case.hot_share
    blocks = list(rng.choice(prefixes)) if hot else []
    at_s, after = start_s, None
    for prompt, answer in _turns(case, rng, len(blocks) * BLOCK_TOKENS):
        whole = (prompt + answer) // BLOCK_TOKENS
        blocks += [rng.getrandbits(64) for _ in range(whole - len(blocks))]
        asked = prompt // BLOCK_TOKENS
        if at_s >= 0:
            request = WorkRequest(
                arrival_s=at_s,
                prompt_tokens=prompt,
                output_tokens=answer,
                blocks=tuple(blocks[:asked]),
                answer_blocks=tuple(blocks[asked:whole]),
                session=number,
                after=after,
                think_s=0.0 if after is None else case.think_s,
            )
            after = len(found)
            found.append(request)
        at_s += case.think_s + answer * ALONE_S_PER_TOKEN / case.speed


def _turns(case: Case, rng: random.Random, hot_tokens: int) -> Iterator[Turn]:
    """Up to the first that is too long."""
    median = case.tail_tokens if hot_tokens else case.other_tokens
    prompt = hot_tokens + _length(rng, median, case.prompt_spread)
    for turn in range(case.turns):
        answer = 1 + _length(rng, case.answer_tokens - 1, case.answer_spread)
        if prompt + answer > LONGEST_TOKENS:
            if turn == 0:
                answer = min(answer, LONGEST_TOKENS // 4)
                yield min(prompt, LONGEST_TOKENS - answer), answer
            return
        yield prompt, answer
        prompt += answer + _length(rng, case.turn_tokens, case.prompt_spread)


def _length(rng: random.Random, median: int, spread: float) -> int:
    """Log-normal; at least 1 unless the median is 0."""
    return max(round(median * exp(rng.gauss(0, spread))), min(median, 1))
