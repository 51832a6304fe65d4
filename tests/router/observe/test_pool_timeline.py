"""The last minutes of a pool: what is counted where, what is forgotten when."""

import pytest

from dualmap.router.observe.pool_timeline import BUCKET_S, MOST_BUCKETS, PoolTimeline
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.stats import SchedulerStats


def make_timeline() -> tuple[PoolTimeline, SchedulerStats]:
    stats = SchedulerStats(slo_kept=100, slo_missed=10)  # from before
    return PoolTimeline(stats, 1000.0), stats


@pytest.mark.parametrize("ttft_s", [0.0, 0.001, 0.02, 0.34, 1.0, 5.0, 61.0, 599.0])
def test_percentiles_are_off_by_no_more_than_a_twentieth(ttft_s):
    timeline, _ = make_timeline()
    timeline.note_first_token(ttft_s)
    shown = timeline.describe(1001.0)
    assert shown["p50_s"] == shown["p90_s"] == pytest.approx(ttft_s, rel=0.05, abs=0.001)


def test_percentiles_are_those_of_what_was_counted():
    timeline, _ = make_timeline()
    for ttft_s in [0.1] * 80 + [2.0] * 20:
        timeline.note_first_token(ttft_s)
    shown = timeline.describe(1001.0)
    assert shown["first_tokens"] == 100
    assert shown["p50_s"] == pytest.approx(0.1, rel=0.05)
    assert shown["p90_s"] == pytest.approx(2.0, rel=0.05)


def test_what_took_longer_than_the_last_bound_counts_as_much():
    timeline, _ = make_timeline()
    timeline.note_first_token(10_000.0)
    assert timeline.describe(1001.0)["p50_s"] == pytest.approx(600, rel=0.1)


def test_each_bucket_has_what_happened_in_it():
    timeline, stats = make_timeline()
    stats.slo_kept += 3
    timeline.note_choice(ChoiceReason.WARM)
    timeline.advance(1000.0 + BUCKET_S - 0.1)
    timeline.advance(1000.0 + BUCKET_S)
    stats.slo_missed += 1
    stats.tpot_kept += 2
    stats.tpot_missed += 1
    timeline.note_choice(ChoiceReason.MOVED)
    shown = timeline.describe(1000.0 + BUCKET_S + 2.0)
    assert [(b["age_s"], b["kept"], b["missed"]) for b in shown["buckets"]] == [(BUCKET_S + 2.0, 3, 0), (2.0, 0, 1)]
    assert (shown["kept"], shown["missed"]) == (3, 1)
    assert (shown["tpot_kept"], shown["tpot_missed"]) == (2, 1)
    assert {reason: n for reason, n in shown["choices"].items() if n} == {"warm": 1, "moved": 1}


def test_what_is_older_than_the_last_minutes_is_forgotten():
    timeline, stats = make_timeline()
    stats.slo_kept += 1
    timeline.note_choice(ChoiceReason.WARM)
    for number in range(1, MOST_BUCKETS + 2):
        timeline.advance(1000.0 + number * BUCKET_S)
    shown = timeline.describe(1000.0 + (MOST_BUCKETS + 1) * BUCKET_S)
    assert len(shown["buckets"]) == MOST_BUCKETS + 1
    assert shown["kept"] == sum(shown["choices"].values()) == 0
    assert shown["since_s"] == MOST_BUCKETS * BUCKET_S
