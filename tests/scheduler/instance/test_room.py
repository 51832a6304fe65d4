"""room.py: what may start at an instance. A token is a millisecond."""

import pytest

from dualmap.scheduler import Request, SchedulerConfig
from dualmap.scheduler.events import InstanceLoad
from tests.scheduler.made import attempt_of, view_of


@pytest.mark.parametrize(
    ("slo_s", "first"),
    [
        (2.5, "short"),  # with 2 s before it, "long" would be late: it is put aside
        (3.5, "long"),  # with 4 s, which is all that waits elsewhere, it would be, too
    ],
)
def test_half_of_what_waits_in_other_gateways_is_taken_to_come_before(slo_s: float, first: str):
    view = view_of(config=SchedulerConfig(length_handicap=0.0))
    waiting = InstanceLoad("a", 0, 0, waiting_tokens=4000, kv_tokens=0, waiting=1)
    view.hear_of_others(waiting, 0.0, window_s=0.1)
    view.enqueue(attempt_of(Request("long", (), 1000), slo_s=slo_s))
    view.enqueue(attempt_of(Request("short", (), 100), arrived_at=0.01, slo_s=3.3))
    found = view.room.next_waiting(now=0.02)
    assert found is not None
    assert found.request.id == first
