"""What came of a run of the cluster in virtual time."""

from collections import Counter
from dataclasses import dataclass, field
from math import exp, log, nan


@dataclass(slots=True)
class RequestOutcome:
    """Times in seconds from the start of the run; nan where it did not come to that. ok: the answer is complete.
    sent_s: when it was last sent to an instance."""

    arrived_s: float
    first_token_s: float = nan
    finished_s: float = nan
    ok: bool = False
    instance_id: str = ""
    cached_tokens: int = 0
    attempts: int = 0
    sent_s: float = nan


class GapHistogram:
    """Counts of seconds in bins of 2 %: as fine as anybody reads them, and small however long the run."""

    STEP = log(1.02)

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def add(self, seconds: float, count: int) -> None:
        if seconds > 0:
            self.counts[round(log(seconds) / self.STEP)] += count

    def quantile(self, share: float) -> float:
        """Seconds; nan of nothing."""
        left = share * self.counts.total()
        for bin_, count in sorted(self.counts.items()):
            left -= count
            if left <= 0:
                return exp(bin_ * self.STEP)
        return nan


@dataclass(slots=True)
class ClusterRun:
    """outcomes: one a request of the workload, in its order. stopped: the run was ended by `give_up`.
    token_gaps: times between one token of a request and its next. instance_s: seconds that instances were there, those
    in which they started included. timeline: seconds, instances ready, and all there were, where these were scaled."""

    outcomes: list[RequestOutcome]
    token_gaps: GapHistogram
    computed_tokens: dict[str, int] = field(default_factory=dict)  # instance -> prompt tokens it computed
    preemptions: int = 0
    moves: int = 0
    retries: int = 0
    duration_s: float = 0.0
    stopped: bool = False
    instance_s: float = 0.0
    timeline: list[tuple[float, int, int]] = field(default_factory=list)
    plans: list[tuple[float, str]] = field(default_factory=list)  # those that changed something, and why
