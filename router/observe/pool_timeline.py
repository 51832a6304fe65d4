"""What happened in a pool over the last minutes, for the live page: choices by reason, times to first token, objectives
kept. On the request path a count is an integer; ten seconds are closed at a time, and read when somebody looks."""

from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.stats import SchedulerStats

BUCKET_S = 10.0
MOST_BUCKETS = 60  # ten minutes, and the one that is open
STEP = 1.1
BOUNDS_S = tuple(0.001 * STEP**i for i in range(141))  # 1 ms to 10 minutes; a percentile is off by 5 % at most


@dataclass(frozen=True, slots=True)
class _Bucket:
    """began_at: seconds of the gateway's clock. ttft_counts: by bound, and above the last. kept, missed, tpot_kept,
    tpot_missed: as in SchedulerStats."""

    began_at: float
    choices: dict[ChoiceReason, int]
    ttft_counts: list[int]
    kept: int
    missed: int
    tpot_kept: int
    tpot_missed: int


class PoolTimeline:
    def __init__(self, stats: SchedulerStats, now: float) -> None:
        """stats: of the pool's scheduler, which counts on."""
        self._stats = stats
        self._closed: deque[_Bucket] = deque(maxlen=MOST_BUCKETS)
        self._open(now)

    def note_choice(self, reason: ChoiceReason) -> None:
        self._choices[reason] += 1

    def note_first_token(self, ttft_s: float) -> None:
        self._ttft_counts[bisect_left(BOUNDS_S, ttft_s)] += 1

    def advance(self, now: float) -> None:
        """Close what is over; called about once a tick. A loop that stood still makes one bucket longer."""
        if now >= self._began_at + BUCKET_S:
            self._closed.append(self._bucket())
            self._open(now)

    def describe(self, now: float) -> dict[str, Any]:
        """As plain values: the buckets, oldest first, and all of them together. Percentiles in seconds, None where no
        first token came."""
        buckets = [*self._closed, self._bucket()]
        kept, missed = sum(bucket.kept for bucket in buckets), sum(bucket.missed for bucket in buckets)
        ttft_counts = [sum(counts) for counts in zip(*(bucket.ttft_counts for bucket in buckets), strict=True)]
        choices: Counter[ChoiceReason] = Counter()
        for bucket in buckets:
            choices.update(bucket.choices)
        return {
            "bucket_s": BUCKET_S,
            "since_s": now - buckets[0].began_at,
            "first_tokens": sum(ttft_counts),
            "kept": kept,
            "missed": missed,
            "tpot_kept": sum(bucket.tpot_kept for bucket in buckets),
            "tpot_missed": sum(bucket.tpot_missed for bucket in buckets),
            "p50_s": percentile_s(ttft_counts, 0.5),
            "p90_s": percentile_s(ttft_counts, 0.9),
            "choices": {reason.value: choices[reason] for reason in ChoiceReason},
            "buckets": [
                {
                    "age_s": now - bucket.began_at,
                    "kept": bucket.kept,
                    "missed": bucket.missed,
                    "p50_s": percentile_s(bucket.ttft_counts, 0.5),
                    "p90_s": percentile_s(bucket.ttft_counts, 0.9),
                }
                for bucket in buckets
            ],
        }

    def _open(self, now: float) -> None:
        self._began_at = now
        self._choices = dict.fromkeys(ChoiceReason, 0)
        self._ttft_counts = [0] * (len(BOUNDS_S) + 1)
        self._before = replace(self._stats)

    def _bucket(self) -> _Bucket:
        stats, before = self._stats, self._before
        return _Bucket(
            began_at=self._began_at,
            choices=self._choices,
            ttft_counts=self._ttft_counts,
            kept=stats.slo_kept - before.slo_kept,
            missed=stats.slo_missed - before.slo_missed,
            tpot_kept=stats.tpot_kept - before.tpot_kept,
            tpot_missed=stats.tpot_missed - before.tpot_missed,
        )


def percentile_s(counts: list[int], quantile: float) -> float | None:
    """In the middle of the bound's range that has it; None where nothing was counted."""
    wanted = quantile * sum(counts)
    if not wanted:
        return None
    seen = 0
    for place, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return BOUNDS_S[min(place, len(BOUNDS_S) - 1)] / sqrt(STEP)
    return None
