import random

import pytest

from dualmap.loadtest.experiments.drift import HOUR_S, drift, markdown, page, rows

RANDOM = random.Random(7)
DAY = [60.0 * minute for minute in range(24 * 60)]


def test_the_slope_is_that_of_what_was_sampled_once_warm():
    climbs = [(at, 1000.0 - at if at < 600.0 else at / HOUR_S) for at in DAY]
    found = drift("rss", climbs, warm_s=600.0)
    assert (found.slope, found.error) == pytest.approx((1.0, 0.0), abs=1e-9)
    assert (found.least, found.most) == (found.first, found.last)


@pytest.mark.parametrize(
    ("series", "grows"),
    [
        ([(at, 100.0) for at in DAY], False),
        ([(at, 100.0 + RANDOM.gauss(0, 20)) for at in DAY], False),
        ([(at, 100.0 - at / HOUR_S) for at in DAY], False),
        ([(at, 100.0 + at / 1000 / HOUR_S) for at in DAY], False),
        ([(at, 100.0 + 6 * at / HOUR_S + RANDOM.gauss(0, 20)) for at in DAY], True),
    ],
    ids=["stays", "scatters", "falls", "grows by nothing", "grows"],
)
def test_what_scatters_does_not_grow(series, grows):
    assert drift("entries", series, warm_s=0.0).grows is grows


def test_a_number_that_was_sampled_once_has_no_slope():
    assert drift("one", [(0.0, 5.0)], warm_s=60.0).slope == 0.0


def test_table_and_page_name_each_number():
    series = {"fds": [(0.0, 15.0), (60.0, 15.0), (120.0, 16.0)], "a < b": [(0.0, 1.0), (60.0, 1.0), (120.0, 1.0)]}
    table = markdown(rows(drift(name, points, 0.0) for name, points in series.items()))
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| fds", "| a < b"]
    shown = page("Soak", "an hour", series, "killed twice")
    assert shown.count("<svg") == 2
    assert "a &lt; b" in shown
    assert "killed twice" in shown
