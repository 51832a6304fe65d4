"""What operators see of the signals: which there are, how old they are, on the status and as a metric."""

import pytest

from dualmap.router.cli.status import format_signals
from dualmap.router.observe.signal_ages import SignalAges
from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.events import FirstToken, InstanceJoined, LoadReported, RequestArrived, RequestFinished
from dualmap.scheduler.fleet.signals import InstanceSignals, KvEventState, LoadSample


@pytest.fixture
def scheduler() -> Scheduler:
    scheduler = Scheduler(SchedulerConfig())
    scheduler.handle(InstanceJoined("a", 1, InstanceCapacity()), 10.0)
    return scheduler


def test_an_instance_that_says_nothing_has_no_signals(scheduler):
    ages = SignalAges([scheduler])
    assert ages.describe(20.0) == {"a": {}}
    assert format_signals(ages.describe(20.0)["a"]) == "none"


def test_each_signal_has_its_age(scheduler):
    ages = SignalAges([scheduler])
    ages.note(
        InstanceSignals("a", LoadSample(3, 1, 0.5, preemptions=2), 0.5, kv_events=KvEventState(True, 9, age_s=1.0)),
        20.0,
    )
    scheduler.handle(LoadReported("a", 3, 1, kv_used=0.5, age_s=0.5), 20.0)
    scheduler.handle(RequestArrived(Request("r", (), 100)), 20.0)
    scheduler.handle(FirstToken("r", 1), 20.5)
    scheduler.handle(RequestFinished("r", 1, 10, cached_tokens=0, prompt_tokens=100), 21.0)
    assert ages.ages(23.0) == {"a": {"metrics": 3.5, "usage": 2.0, "kv_events": 4.0}}
    described = ages.describe(23.0)["a"]
    assert described["metrics"]["preemptions"] == 2
    assert format_signals(described) == "metrics 3.5 s, usage 2.0 s, kv events 4.0 s (exact)"


def test_a_report_without_a_sample_keeps_the_last_one(scheduler):
    ages = SignalAges([scheduler])
    ages.note(InstanceSignals("a", LoadSample(3, 1, 0.5)), 20.0)
    scheduler.handle(LoadReported("a", 3, 1, kv_used=0.5), 20.0)
    ages.note(InstanceSignals("a"), 20.2)
    assert ages.describe(20.5)["a"]["metrics"]["running"] == 3


def test_a_broken_stream_of_events_says_why(scheduler):
    ages = SignalAges([scheduler])
    ages.note(InstanceSignals("a", kv_events=KvEventState(False, error="batch 3: not msgpack")), 20.0)
    assert ages.ages(20.0) == {"a": {}}
    assert format_signals(ages.describe(20.0)["a"]) == "kv events none yet (batch 3: not msgpack)"
