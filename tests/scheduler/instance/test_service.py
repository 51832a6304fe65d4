"""service.py: how an instance serves."""

from math import exp

import pytest

from dualmap.scheduler import InstanceCapacity, Request
from dualmap.scheduler.instance.pace import FleetPace
from dualmap.scheduler.instance.service import SAVED_MEMORY_S, Service
from tests.scheduler.made import attempt_of


def saved(tokens: int) -> Service:
    service = Service(InstanceCapacity(), FleetPace(), slow_start_s=0.0)
    attempt = attempt_of(Request("r", (), tokens + 1))
    attempt.dispatch(tokens, work_tokens=1, own_kv_tokens=tokens, now=0.0)
    service.given(attempt)
    return service


@pytest.mark.parametrize("ticks", [1, 10, 300, 3000])
def test_what_a_cache_saved_fades_with_time_however_often_it_is_looked_at(ticks: int):
    service = saved(1_000_000)
    for _ in range(ticks):
        service.fade(SAVED_MEMORY_S / ticks)
    assert service.saved_tokens == pytest.approx(1_000_000 * exp(-1), abs=2)


def test_a_long_pause_leaves_nothing_and_not_less_than_that():
    service = saved(1_000_000)
    service.fade(100 * SAVED_MEMORY_S)
    assert service.saved_tokens == 0
