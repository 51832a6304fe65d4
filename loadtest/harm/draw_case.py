"""Which cases the search tries: at random from the whole range of each field, or near one that was bad."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp, log
from typing import Any

from dualmap.loadtest.harm.case import DEFAULT, Case
from dualmap.loadtest.harm.case_sessions import requests_per_s


@dataclass(frozen=True, slots=True)
class Range:
    """usual: values that half of the draws take, since edges are where rules break. logarithmic: small values are as
    likely as large ones."""

    least: float
    most: float
    usual: tuple[float, ...] = ()
    logarithmic: bool = False


RANGES: Mapping[str, Range] = {
    "requests": Range(500, 2000, logarithmic=True),
    "instances": Range(2, 64, (2, 4, 8, 16), logarithmic=True),
    "gateways": Range(1, 4, (1,)),
    "speed": Range(0.5, 8, (1,), logarithmic=True),
    "slow_share": Range(0, 0.75, (0,)),
    "slow_factor": Range(1.2, 4, logarithmic=True),
    "told": Range(0, 1, (1,)),
    "kv_tokens": Range(65_536, 1_000_000, (740_000,), logarithmic=True),
    "offload_tokens": Range(65_536, 2_000_000, (0,), logarithmic=True),
    "slo_s": Range(0.3, 10, (1, 5), logarithmic=True),
    "utilisation": Range(0.2, 0.9),
    "burst_factor": Range(1, 8, (1,), logarithmic=True),
    "burst_s": Range(0.2, 30, logarithmic=True),
    "hot_prefixes": Range(1, 32, (1,), logarithmic=True),
    "hot_share": Range(0, 1, (0, 1)),
    "hot_blocks": Range(1, 40, logarithmic=True),
    "tail_tokens": Range(1, 8000, (50, 400), logarithmic=True),
    "other_tokens": Range(50, 12_000, logarithmic=True),
    "prompt_spread": Range(0, 1.2),
    "answer_tokens": Range(1, 4000, (1, 100), logarithmic=True),
    "answer_spread": Range(0, 1.2),
    "turns": Range(2, 16, (1,), logarithmic=True),
    "think_s": Range(0.5, 30, (0,), logarithmic=True),
    "turn_tokens": Range(10, 3000, logarithmic=True),
}
LEAST_S = 10.0  # of arrivals: prefixes are copied in the first seconds, which say nothing of those that follow
STEP = 0.15  # of a field's range: one standard deviation of a small mutation


def draw_case(rng: random.Random, fixed: Mapping[str, Any]) -> Case:
    """Any case, but for the fields that are fixed."""
    values = {"seed": rng.randrange(2**32), **{name: _drawn(rng, name) for name in RANGES}, **fixed}
    return _lasting(_put(DEFAULT, values), fixed)


def mutated(rng: random.Random, case: Case, fixed: Mapping[str, Any]) -> Case:
    """The case with one or two fields elsewhere, and another seed: what was bad by chance is not bad again."""
    names = rng.sample(sorted(RANGES), rng.randint(1, 2))
    values = {
        name: _drawn(rng, name) if rng.random() < 0.5 else _near(rng, name, getattr(case, name)) for name in names
    }
    return _lasting(_put(case, {"seed": rng.randrange(2**32), **values, **fixed}), fixed)


def _put(case: Case, values: Mapping[str, Any]) -> Case:
    """Fields that mean nothing beside the others are at their defaults, so that equal cases look equal."""
    case = replace(case, **values)
    idle: list[str] = []
    if not case.hot_share:
        idle += ["hot_prefixes", "hot_blocks", "tail_tokens"]
    if case.hot_share == 1:
        idle.append("other_tokens")
    if case.turns == 1:
        idle += ["think_s", "turn_tokens"]
    if case.answer_tokens == 1:
        idle.append("answer_spread")
    if case.burst_factor == 1:
        idle.append("burst_s")
    if not case.slow_instances:
        idle += ["slow_share", "slow_factor"]
        if case.speed == 1:
            idle.append("told")
    return replace(case, **{name: getattr(DEFAULT, name) for name in idle})


def _lasting(case: Case, fixed: Mapping[str, Any]) -> Case:
    """With as many requests as come in LEAST_S, unless their number is fixed."""
    if "requests" in fixed:
        return case
    return replace(case, requests=max(case.requests, round(LEAST_S * requests_per_s(case))))


def _drawn(rng: random.Random, name: str) -> float:
    span = RANGES[name]
    if span.usual and rng.random() < 0.5:
        return _fitting(name, rng.choice(span.usual))
    if span.logarithmic:
        return _fitting(name, exp(rng.uniform(log(span.least), log(span.most))))
    return _fitting(name, rng.uniform(span.least, span.most))


def _near(rng: random.Random, name: str, value: float) -> float:
    span = RANGES[name]
    if span.logarithmic:
        moved = max(value, span.least) * exp(rng.gauss(0, STEP) * log(span.most / span.least))
    else:
        moved = value + rng.gauss(0, STEP) * (span.most - span.least)
    return _fitting(name, min(max(moved, span.least), span.most))


def _fitting(name: str, value: float) -> float:
    """Whole where the field is; otherwise of three digits, so that a command line stays short."""
    if isinstance(getattr(DEFAULT, name), int):
        return round(value)
    return float(f"{value:.3g}")
