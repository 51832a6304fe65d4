"""Do no harm: on no workload that simple policies bear may a policy be much slower than the better of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dualmap.loadtest.harm.case import Case
from dualmap.loadtest.harm.measure import Measures, measure

BASES = ("round_robin", "least_loaded")  # what does no harm: neither looks at prefixes
BORNE = 0.99  # of the requests within the objective with the better base: less is overload
BAR = 1.15  # harm above it is too much
MAY_MISS = 0.005  # share of the requests by which a policy may fall short of the better base under overload

# A few more steps of the engine, of 10 ms and longer each, are no harm: a prompt that comes while a step runs waits for
# its end, whoever placed it; so two steps and the prompt's own for the first token. Half an answer's end may hit one
# step more, and a token's pace moves by a tenth of a step with one prompt among ten steps.
ALLOWED_S: Mapping[str, float] = {"ttft_p90_s": 0.030, "e2e_p50_s": 0.020, "tpot_p90_s": 0.001}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """measures: by policy. ratios: by measure, of the policy over the better base and what is allowed. harm: the worst
    ratio. shortfall: share of the requests by which the policy meets the objective less often than the better base.
    cpu_s: what it took to find out."""

    case: Case
    policy: str
    measures: Mapping[str, Measures]
    ratios: Mapping[str, float]
    borne: bool
    shortfall: float
    cpu_s: float = 0.0

    @property
    def harm(self) -> float:
        return max(self.ratios.values())

    @property
    def worst(self) -> str:
        """The measure that makes the harm."""
        return max(self.ratios, key=lambda name: self.ratios[name])


Evaluate = Callable[[Case], Evaluation]


def evaluate(case: Case, policy: str = "dualmap", peers: Sequence[str] = ()) -> Evaluation:
    """peers: measured beside the policy, and not judged."""
    began_s = time.process_time()
    measures = {name: measure(case, name) for name in dict.fromkeys((policy, *BASES, *peers))}
    judged = judge(case, policy, measures)
    return replace(judged, cpu_s=round(time.process_time() - began_s, 2))


def judge(case: Case, policy: str, measures: Mapping[str, Measures]) -> Evaluation:
    attained = max(measures[base].attainment for base in BASES)
    return Evaluation(
        case=case,
        policy=policy,
        measures=measures,
        ratios=ratios(measures[policy], [measures[base] for base in BASES]),
        borne=attained >= BORNE,
        shortfall=round(attained - measures[policy].attainment, 4),
    )


def ratios(chosen: Measures, bases: Sequence[Measures]) -> dict[str, float]:
    """Of each measure that all of them have, against the better base."""
    found = {}
    for name, allowed_s in ALLOWED_S.items():
        values: list[Any] = [getattr(measures, name) for measures in (chosen, *bases)]
        if None not in values:
            found[name] = round(values[0] / (min(values[1:]) + allowed_s), 4)
    return found
