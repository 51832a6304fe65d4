"""How many instances are wanted, and why. An instance computes 1,000 tokens a second."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dualmap.scheduler.errors import ConfigError
from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.fleet.scaling_plan import ScalingPlan, plan_scaling
from dualmap.scheduler.fleet.scaling_sample import InstanceSample, ScalingSample
from dualmap.scheduler.held_requests import HeldWork
from dualmap.scheduler.instance_capacity import InstanceCapacity

CAPACITY = InstanceCapacity(prefill_tokens_per_s=1000.0, kv_tokens=10_000, max_running=10)
CONFIG = ScalingConfig(1, 6, up_window_s=10, down_window_s=40, cool_down_s=20)
START_S = 5.0


def instance(name: str, state: str = "ready", since_s: float = 1000.0, **load) -> InstanceSample:
    nothing = {"running": 0, "prefilling_tokens": 0, "waiting_tokens": 0, "kv_tokens": 0}
    return InstanceSample(state, CAPACITY, InstanceLoad(name, **(nothing | load)), since_s=since_s)


def ready(count: int, **load) -> tuple[InstanceSample, ...]:
    return tuple(instance(f"i{number}", **load) for number in range(count))


def sample(at_s: float, instances: tuple[InstanceSample, ...], *counted: int, **named: int) -> ScalingSample:
    return ScalingSample(float(at_s), instances, PoolTotals(*counted, **named))


def steady(
    instances: tuple[InstanceSample, ...], tokens_per_s: int = 0, seconds: int = 100, **counters: int
) -> list[ScalingSample]:
    """So much work each second, in one request."""
    counters = {"arrived": 1, "slo_kept": 1} | counters
    return [sample(at, instances, arrived_work_tokens=tokens_per_s, **counters) for at in range(seconds + 1)]


def plan(history: list[ScalingSample], config: ScalingConfig = CONFIG, start_s: float = START_S) -> ScalingPlan:
    return plan_scaling(history, config, start_s)


# Upwards.


def test_fewer_than_the_least_are_started_at_once():
    found = plan(steady(ready(1), seconds=0), ScalingConfig(3, 6))
    assert (found.replicas, found.start, found.drain) == (3, 2, ())
    assert found.reason == "1 instance, at least 3 wanted"


def test_work_for_more_instances_starts_them():
    found = plan(steady(ready(2), 2300))
    assert (found.replicas, found.start) == (3, 1)
    assert found.reason == "prefill load 2.30 instances, 2.30 coming: 3 wanted"


def test_a_learned_pace_counts_instead_of_the_configured_one():
    assert plan(steady(ready(2, seconds_per_token=0.0005), 2300)).start == 0
    assert plan(steady(ready(2, seconds_per_token=0.002), 2300)).start == 2


def test_no_more_than_a_step_is_started_at_once_and_no_more_than_the_most_are_wanted():
    found = plan(steady(ready(2), 9000))
    assert (found.replicas, found.start) == (6, CONFIG.max_step)


def test_those_that_start_are_counted_on():
    starting = (instance("new0", "starting", 1.0), instance("new1", "starting", 1.0))
    assert plan(steady((*ready(2), *starting), 2900)).start == 0


def test_a_history_shorter_than_the_up_window_starts_nobody():
    found = plan(steady(ready(2), 9000, seconds=9))
    assert (found.start, found.replicas) == (0, 6)
    assert found.reason.endswith("hold: seen for 9 of 10 s")


@pytest.mark.parametrize(
    ("ago_s", "start_s", "held"), [(3, 1.0, True), (4, 1.0, False), (4, 8.0, True), (8, 8.0, False)]
)
def test_the_next_step_waits_until_the_last_one_shows(ago_s: int, start_s: float, held: bool):
    history = steady(ready(2), 9000, seconds=100 - ago_s)
    history += [sample(at, ready(3), 1, 9000, 1) for at in range(101 - ago_s, 102)]
    found = plan(history, start_s=start_s)
    assert (found.start == 0) is held
    assert ("the last start was" in found.reason) is held


def growing(by: int) -> list[ScalingSample]:
    """Arrivals of 25 tokens each, so many more in each second, half an instance's work at first."""
    return [sample(at, ready(2), 20 + by * at, 25 * (20 + by * at), 1) for at in range(11)]


def test_growing_arrivals_are_forecast_for_the_time_of_a_start():
    assert plan(growing(4), start_s=0.1).start == 0
    found = plan(growing(4), start_s=10.0)
    assert found.start == 1
    assert found.reason == "prefill load 1.30 instances, 1.78 coming: 3 wanted"


def test_arrivals_are_forecast_no_further_than_they_were_watched():
    assert plan(growing(4), start_s=1000.0) == plan(growing(4), start_s=CONFIG.up_window_s)


def test_a_few_requests_more_are_no_trend():
    history = [sample(at, ready(1), 1 + (at > 5), 300 + 1100 * (at > 5), 1) for at in range(11)]
    assert plan(history, start_s=10.0).reason == "prefill load 0.85 instances, 0.85 coming: 2 wanted"
    many = [sample(s.at_s, s.instances, 20 * s.counted.arrived, s.counted.arrived_work_tokens, 1) for s in history]
    assert "prefill load 1.40 instances" in plan(many, start_s=10.0).reason


def test_a_backlog_is_to_be_worked_off_in_time():
    found = plan(steady(ready(2, waiting_tokens=30_000), 1200))
    assert found.start == 2
    assert "a backlog of 60.0 instance-seconds" in found.reason


def test_a_backlog_that_is_gone_before_an_instance_is_ready_starts_nobody():
    history = steady(ready(2, waiting_tokens=40_000), 500)
    assert plan(history, start_s=60.0).start == 0
    assert plan(history, start_s=30.0).start == 1


def test_missed_objectives_ask_for_one_more_while_work_waits():
    late = {"slo_kept": 1, "slo_missed": 1}
    found = plan(steady(ready(2, waiting_tokens=2000), 1000, **late))
    assert (found.start, found.reason) == (1, "50% in time over 10 s: 3 wanted")
    assert plan(steady(ready(2), 1000, **late)).start == 0


@pytest.mark.parametrize(
    ("kept", "missed", "reason"),
    [
        (93, 7, "93% of answers at their pace over 10 s: 3 wanted"),
        (0, 20, "0% of answers at their pace over 10 s: 3 wanted"),
        (95, 5, "hold: 95% of answers at their pace in the last 40 s"),
        (0, 19, "hold: prefill load up to 1.00 instances: 2 wanted in the last 40 s"),
    ],
)
def test_slow_answers_ask_for_one_more_once_there_are_enough_to_tell(kept: int, missed: int, reason: str):
    history = steady(ready(2), 1000)
    found = plan([*history[:-1], sample(100, ready(2), 1, 1000, 1, tpot_kept=kept, tpot_missed=missed)])
    assert (found.start, found.reason) == (int("3 wanted" in reason), reason)


@pytest.mark.parametrize(("since_s", "started"), [(9.0, 0), (10.0, 1)])
def test_answers_from_before_the_last_instance_came_ask_for_no_more(since_s: float, started: int):
    instances = (*ready(2), instance("new", since_s=since_s))
    assert plan(steady(instances, 1000, tpot_missed=20)).start == started


def test_one_that_starts_is_waited_for_before_slow_answers_ask_for_another():
    instances = (*ready(2), instance("new", "starting", 1.0))
    assert plan(steady(instances, 1000, tpot_missed=20)).start == 0


@pytest.mark.parametrize(
    ("load", "said"), [({"running": 9}, "18 requests run, 10 at an instance"), ({"kv_tokens": 9500}, "1.90 instances")]
)
def test_decoding_and_the_kv_cache_can_each_ask_for_more(load: dict[str, int], said: str):
    found = plan(steady(ready(2, **load), 100))
    assert found.start == 1
    assert said in found.reason


# Downwards.


def slow(seconds: range, instances: int = 3) -> list[ScalingSample]:
    """Of the answers, two a second, one is slow in each of these seconds."""
    return [
        replace(s, counted=replace(s.counted, tpot_kept=2 - (s.at_s in seconds), tpot_missed=int(s.at_s in seconds)))
        for s in steady(ready(instances), 100)
    ]


def test_one_leaves_at_a_time_and_it_is_the_one_whose_cache_is_worth_least():
    instances = (instance("a", saved_tokens=900), instance("b", saved_tokens=10), instance("c", saved_tokens=500))
    found = plan(steady(instances, 300))
    assert (found.replicas, found.start, found.drain) == (2, 0, ("b",))


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (steady(ready(3), 300, seconds=39), "hold: down window not full, 39 of 40 s"),
        (steady(ready(1), 0), "hold: 1 instance, no fewer allowed"),
        (steady((*ready(2), instance("new", "starting", 1.0)), 0), "hold: an instance is starting"),
        (steady((*ready(2), instance("new", since_s=5.0)), 0), "hold: the last change was 5 s ago, cool-down 20 s"),
        (steady(ready(3), 1700), "hold: prefill load up to 1.70 instances: 3 wanted in the last 40 s"),
        (steady(ready(3), 1500), "hold: prefill load up to 1.50 instances: 3 wanted in the last 40 s"),
        (steady(ready(3), 100, slo_kept=1, slo_missed=1), "hold: 50% in time in the last 40 s"),
        (slow(range(99, 101), instances=6), "hold: 91% of answers at their pace in the last 40 s"),
        (slow(range(70, 73)), "hold: 96% of answers at their pace in the last 40 s"),
        (slow(range(85)), "hold: 70% of answers at their pace in the last 40 s"),
        (steady(ready(3, running=7), 100), "hold: 21 requests run, 10 at an instance: 3 wanted in the last 40 s"),
    ],
)
def test_nobody_leaves_while(history: list[ScalingSample], said: str):
    found = plan(history)
    assert (found.start, found.drain) == (0, ())
    assert found.reason == said


def test_one_leaves_though_a_few_answers_were_slow():
    assert plan(slow(range(70, 72))).drain


def test_a_peak_in_the_down_window_keeps_the_instances():
    history = steady(ready(3), 100)
    quiet = plan(history)
    assert quiet.drain
    for peak in (range(61, 81), range(81, 101), range(91, 101)):
        found = plan([sample(s.at_s, s.instances, 1, 1800 if s.at_s in peak else 100, 1) for s in history])
        assert found.drain == ()


def test_more_than_the_most_leave_at_once_but_never_the_last_that_is_ready():
    found = plan(steady(ready(4), 0, seconds=0), ScalingConfig(1, 2))
    assert len(found.drain) == 2
    mixed = (instance("a"), instance("b", "starting", 1.0), instance("c", "starting", 1.0))
    assert plan(steady(mixed, 0, seconds=0), ScalingConfig(1, 1)).drain == ()


# Whatever the history.

INSTANCES = st.lists(
    st.builds(
        InstanceSample,
        st.sampled_from(("ready", "ready", "starting", "draining")),
        st.just(CAPACITY),
        st.builds(
            InstanceLoad,
            st.uuids().map(str),
            seconds_per_token=st.sampled_from((0.0, 0.0005, 0.01)),
            prefilling_tokens=st.integers(0, 50_000),
            waiting_tokens=st.integers(0, 50_000),
            waiting=st.integers(0, 50),
            running=st.integers(0, 20),
            kv_tokens=st.integers(0, 20_000),
            saved_tokens=st.integers(0, 1000),
        ),
        since_s=st.floats(0, 200),
    ),
    max_size=8,
).map(tuple)
FEW = st.integers(0, 50)
COUNTERS = st.builds(
    dict,
    arrived=FEW,
    arrived_work_tokens=st.integers(0, 20_000),
    slo_kept=FEW,
    slo_missed=FEW,
    tpot_kept=FEW,
    tpot_missed=FEW,
)
CONFIGS = st.builds(
    lambda least, more, step: ScalingConfig(
        least, max(1, least + more), up_window_s=5, down_window_s=15, cool_down_s=10, max_step=step
    ),
    st.integers(0, 4),
    st.integers(0, 5),
    st.integers(1, 3),
)


# From zero, and to zero.

ZERO = replace(CONFIG, min_replicas=0)


def moment(instances=(), held: HeldWork = HeldWork(), quiet_s: float = 0.0, arrived: int = 0) -> ScalingSample:  # noqa: B008
    return ScalingSample(100.0, tuple(instances), PoolTotals(arrived), held=held, quiet_s=quiet_s)


@pytest.mark.parametrize(
    ("held", "replicas", "start"),
    [(HeldWork(), 0, 0), (HeldWork(1, 10), 1, 1), (HeldWork(3, 0), 1, 1), (HeldWork(50, 30_000_000), 6, 2)],
)
def test_from_zero_what_waits_starts_an_instance_at_once_or_as_many_as_it_needs(held, replicas: int, start: int):
    found = plan([moment(held=held)], ZERO)
    assert (found.replicas, found.start, found.drain) == (replicas, start, ())
    assert held.requests == 0 or found.reason == f"requests that wait for an instance to come: {held.requests}"


def test_what_waits_counts_on_the_instance_that_starts():
    found = plan([moment([instance("i0", "starting", 1.0)], HeldWork(3, 100))], ZERO)
    assert (found.replicas, found.start, found.drain) == (1, 0, ())


def test_requests_that_are_refused_since_none_are_held_start_an_instance_too():
    assert plan([moment(arrived=5)], ZERO).start == 0  # they came before anybody looked
    assert plan([moment(), moment(arrived=1)], ZERO).reason == "requests come, and there is no instance"


@pytest.mark.parametrize(("since_s", "started"), [(9.0, 0), (10.0, 1)])
def test_those_that_waited_for_the_first_one_were_not_late_for_want_of_another(since_s: float, started: int):
    here = (instance("i0", since_s=since_s, waiting_tokens=3000), instance("i1", since_s=1.0))
    assert plan(steady(here, 1000, slo_missed=1)).start == started


@pytest.mark.parametrize(("quiet_s", "gone"), [(299.0, False), (300.0, True)])
def test_all_go_when_nothing_was_asked_for_long_enough_also_one_that_starts(quiet_s: float, gone: bool):
    here = (instance("i0"), instance("i1", "starting", 400.0))
    found = plan([moment(here, quiet_s=quiet_s)], ZERO)
    assert found.drain == (("i0", "i1") if gone else ())
    assert (found.replicas == 0) is gone
    assert plan([moment(here, quiet_s=quiet_s)], CONFIG).replicas > 0


def test_the_last_one_stays_while_anything_is_asked_for_however_little():
    history = [replace(s, quiet_s=5.0) for s in steady(ready(1), 0)]
    found = plan(history, ZERO)
    assert found.drain == ()
    assert found.reason == "hold: the last one goes when nothing was asked for in 300 s, and that is 5 s"
    assert plan([replace(s, quiet_s=5.0) for s in steady(ready(2), 0)], ZERO).drain == ("i0",)


SPANS = st.lists(st.tuples(INSTANCES, COUNTERS, st.integers(1, 25)), min_size=1, max_size=4)


@given(SPANS, CONFIGS, st.floats(0.1, 100))
def test_bounds_are_kept_and_nothing_is_started_and_drained_at_once(spans, config: ScalingConfig, start_s: float):
    told = [(instances, counters) for instances, counters, seconds in spans for _ in range(seconds)]
    samples = [sample(at, instances, **counters) for at, (instances, counters) in enumerate(told)]
    found = plan_scaling(samples, config, start_s)
    here = [i for i in samples[-1].instances if i.state != "draining"]
    ready_ids = {i.instance_id for i in here if i.state == "ready"}
    assert found.reason
    assert not (found.start and found.drain)
    assert found.start >= 0
    if found.start:
        assert len(here) + found.start <= max(config.most, config.min_replicas)
    if found.drain:
        assert set(found.drain) <= ready_ids
        assert len(here) - len(found.drain) >= config.min_replicas
    if found.drain and len(here) <= config.most:
        assert len(found.drain) == 1
        assert len(samples) > config.down_window_s
        assert all(i.since_s >= config.cool_down_s for i in here)


@given(st.lists(st.integers(5, 40), min_size=2, max_size=6), st.integers(10, 60), st.integers(5, 60))
@example([20, 20], 40, 5)
def test_one_that_idles_leaves_after_the_down_window_and_the_cool_down(ready_s, seen_s: int, came_s: int):
    """ready_s: for how long each has been ready. seen_s: length of the history. came_s: ago, the last one came."""
    config = ScalingConfig(1, 8, up_window_s=5, down_window_s=30, cool_down_s=10)
    here = tuple(instance(f"i{number}", since_s=since_s) for number, since_s in enumerate(ready_s))
    history = [ScalingSample(-float(ago), here if ago < came_s else here[:-1]) for ago in range(seen_s, -1, -1)]
    quiet_s = min(came_s, *ready_s)
    assert bool(plan(history, config).drain) is (seen_s >= 30 and quiet_s >= 10)


@given(st.integers(0, 8000), st.integers(0, 8000), st.integers(1, 6))
def test_more_work_never_asks_for_fewer(tokens: int, more: int, count: int):
    less_work, more_work = (plan(steady(ready(count), t, seconds=12)) for t in (tokens, tokens + more))
    assert more_work.replicas >= less_work.replicas


# Configuration.


@pytest.mark.parametrize(("min_replicas", "most"), [(0, 1), (1, 1), (3, 3)])
def test_there_may_be_as_many_as_always_run_where_nobody_says_how_many(min_replicas: int, most: int):
    assert ScalingConfig(min_replicas).most == most


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_load": 0}, "target_load must be greater than 0 and at most 1, not 0"),
        ({"attainment": 1.1}, "attainment must be greater than 0 and at most 1, not 1.1"),
        ({"up_window_s": 0}, "up_window_s must be greater than 0, not 0"),
        ({"drain_deadline_s": -1}, "drain_deadline_s must be greater than 0, not -1"),
        ({"scale_to_zero_after_s": 0}, "scale_to_zero_after_s must be greater than 0, not 0"),
        ({"max_step": 0}, "max_step must be at least 1, not 0"),
        ({"min_replicas": -1}, "min_replicas must be at least 0, not -1"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas must be at least 3"),
        ({"max_replicas": 0}, "max_replicas must be at least 1"),
    ],
)
def test_a_bad_value_is_named(changes: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        ScalingConfig(**changes)
