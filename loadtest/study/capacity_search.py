"""The highest rate at which a share of the requests meets the objective. Pure: a run is a function.

Rates lie on one grid for all policies and seeds, so that policies are compared at equal rates too, and a run that one
target needed serves the others.
"""

from collections.abc import Callable, Mapping
from math import exp, log

STEP = 1.02  # neighbouring rates; between them the share is interpolated
FAR = 10.0  # from the guess: a capacity further away than this factor is not looked for
_FIRST_STRIDE = 2  # grid steps from the guess: about the error of a good one
MISSES_TOLD = 1.5  # a run may end when it has this many times the misses that the lowest target allows


def rate_at(place: int) -> float:
    """Requests a second of a grid place. Rounded, so that a rate is the same number in files and here."""
    return float(f"{STEP**place:.4g}")


def nearest_place(qps: float) -> int:
    return round(log(qps) / log(STEP))


class CapacitySearch:
    """attainment: of a run at a rate; of a run that ended early, what it can have reached at most.

    known: attainment by grid place, of runs that were made before. steps: of the grid between a rate that met a target
    and the one above that did not, where a search ends; more of them cost fewer runs.
    """

    def __init__(
        self,
        attainment: Callable[[float], float],
        *,
        max_probes: int = 40,
        known: Mapping[int, float] | None = None,
        steps: int = 1,
    ) -> None:
        self._attainment = attainment
        self._max_probes = max_probes
        self._steps = steps
        self.known: dict[int, float] = dict(known or {})
        self.probes = 0

    def capacity(self, target: float, guess: float) -> float | None:
        """Requests a second; None where not even the lowest rate in reach meets the target.

        Where noise makes the share cross the target more than once, the highest crossing that was seen counts. With all
        probes spent, the best lower bound.
        """
        start = nearest_place(guess)
        reach = nearest_place(FAR)
        first, last = start - reach, start + reach
        stride = max(_FIRST_STRIDE, self._steps)
        place = start
        width = 2 * (last - first)
        while True:
            met, missed = self._bracket(target)
            if met is not None and missed is not None and missed <= met + self._steps:
                return self._between(met, missed, target)
            if self.probes >= self._max_probes:
                return None if met is None else rate_at(met)
            if met is not None and missed is not None:
                narrowed = missed - met <= width / 2
                width = missed - met
                place = self._crossing(met, missed, target) if narrowed else (met + missed) // 2
            elif met is not None:
                if met >= last:
                    return rate_at(met)
                place, stride = min(met + stride, last), stride * 2
            elif missed is not None:
                if missed <= first:
                    return None
                place, stride = max(missed - stride, first), stride * 2
            self._probe(place)

    def _probe(self, place: int) -> None:
        self.probes += 1
        self.known[place] = self._attainment(rate_at(place))

    def _bracket(self, target: float) -> tuple[int | None, int | None]:
        """The highest place that met the target, and the lowest above it that did not."""
        met = max((place for place, share in self.known.items() if share >= target), default=None)
        missed = min((place for place in self.known if met is None or place > met), default=None)
        return met, missed

    def _crossing(self, met: int, missed: int, target: float) -> int:
        """Where the share would cross the target, were its logit linear."""
        above, goal, below = (_logit(share) for share in (self.known[met], target, self.known[missed]))
        place = met + round((above - goal) / (above - below) * (missed - met))
        return min(max(place, met + 1), missed - 1)

    def _between(self, met: int, missed: int, target: float) -> float:
        above, below = self.known[met], self.known[missed]
        part = (above - target) / (above - below)
        low, high = log(rate_at(met)), log(rate_at(missed))
        return exp(low + part * (high - low))


def _logit(share: float) -> float:
    """Of a share that is kept away from 0 and 1."""
    kept = min(max(share, 0.001), 0.9995)
    return log(kept / (1 - kept))
