"""A case with fewer fields that are not at their defaults, and about as much harm."""

from collections.abc import Callable
from dataclasses import replace

from dualmap.loadtest.harm.case import DEFAULT, Case, changed
from dualmap.loadtest.harm.harm import BAR, Evaluate, Evaluation

KEPT_SHARE = 0.8  # of what the harm was above none
NO_HARM = 1.0
STEPS = ("seed", "gateways", "told", "speed", "slow_share", "burst_factor", "offload_tokens", "kv_tokens", "turns")


def simplified(worst: Evaluation, evaluate: Evaluate, on_step: Callable[[Evaluation], None]) -> Evaluation:
    """Takes one field after the other back to its default, those that make a case hard to grasp first, as long as the
    load is borne and the harm stays above the bar."""
    enough = max(BAR, NO_HARM + KEPT_SHARE * (worst.harm - NO_HARM))
    simplest = worst
    while True:
        for simpler in _simpler(simplest.case):
            tried = evaluate(simpler)
            if tried.borne and tried.harm >= enough:
                simplest = tried
                on_step(tried)
                break
        else:
            return simplest


def _simpler(case: Case) -> list[Case]:
    names = sorted(changed(case), key=lambda name: STEPS.index(name) if name in STEPS else len(STEPS))
    return [replace(case, **{name: getattr(DEFAULT, name)}) for name in names]
