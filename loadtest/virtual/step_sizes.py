"""Steps of mixed instances that are as small as an objective's pace asks for."""

from collections.abc import Sequence
from math import inf

from dualmap.loadtest.virtual.models import load_model
from dualmap.loadtest.virtual.objectives import Promises
from dualmap.loadtest.virtual.simulated_workload import Setup, work_of_request

# Of the step that would take just the time of a token: requests differ, and instances do not always have prompts to
# compute.
_SHARES = (0.5, 0.7, 0.85, 1.0, 1.2)
_GRAIN = 8  # tokens


def paced_steps(setups: Sequence[Setup]) -> list[int]:
    """Tokens of steps that are worth a look for all of the setups, which differ in their work alone; the smallest
    first. None where the objective has no pace, or asks for no smaller steps than the model has. Raises ValueError."""
    setup = setups[0]
    profile = load_model(setup.model).profile
    pace_s = Promises(setup.slo_s, setup.tpot_s, profile).limits(setup.objective, 1, 2).tpot_s
    if pace_s == inf:
        return []
    fitting = min((pace_s - profile.step_overhead_s) / full_step_s(one, 1) for one in setups)
    rounded = {round(share * fitting / _GRAIN) * _GRAIN for share in _SHARES}
    return sorted(tokens for tokens in rounded if 0 < tokens < profile.max_num_batched_tokens)


def full_step_s(setup: Setup, tokens: int) -> float:
    """Seconds of a step of so many tokens, of prompts and answers as the work has them, without what a step costs in
    any case."""
    work = work_of_request(setup)
    return tokens * work.total_s / work.tokens
