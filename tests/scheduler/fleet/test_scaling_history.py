"""Samples for the scaling plan, made from what Fleet knows."""

from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState
from dualmap.scheduler.fleet.pool_totals import PoolTotals
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.fleet.scaling_history import LOST_S, ScalingHistory
from dualmap.scheduler.instance_capacity import InstanceCapacity

CONFIG = ScalingConfig(1, 4, up_window_s=10, down_window_s=20)


def fleet(states: dict[str, str], loads=(), totals=None) -> FleetState:
    members = tuple(
        Member(i, 1, Endpoint("127.0.0.1", 80), state=MemberState(state), capacity=InstanceCapacity(kv_tokens=1000))
        for i, state in states.items()
    )
    return FleetState(
        1, True, members, gateways=(), loads={load.instance_id: load for load in loads}, totals=totals or {}
    )


def states_of(history: ScalingHistory) -> dict[str, tuple[str, float]]:
    return {i.instance_id: (i.state, i.since_s) for i in history.samples()[-1].instances}


def test_an_instance_starts_is_ready_and_drains_each_with_its_age():
    history = ScalingHistory("", CONFIG)
    history.add(100.0, fleet({"a": "ready"}), ["a", "b"], [], None)
    assert states_of(history) == {"a": ("ready", 0.0), "b": ("starting", 0.0)}
    history.add(103.0, fleet({"a": "ready", "b": "starting"}), ["a", "b"], [], None)
    assert states_of(history) == {"a": ("ready", 3.0), "b": ("starting", 3.0)}
    history.add(107.0, fleet({"a": "ready", "b": "ready"}), ["a", "b"], ["a"], None)
    assert states_of(history) == {"a": ("draining", 0.0), "b": ("ready", 0.0)}
    assert history.start_s == 7.0


def test_an_instance_that_is_restarted_counts_as_starting():
    history = ScalingHistory("", CONFIG)
    history.add(0.0, fleet({"a": "lost"}), ["a"], [], "a")
    assert states_of(history)["a"][0] == "starting"


def test_a_lost_instance_is_counted_on_for_a_while_only():
    history = ScalingHistory("", CONFIG)
    for at in (0.0, LOST_S):
        history.add(at, fleet({"a": "lost"}), ["a"], [], None)
        assert states_of(history)["a"][0] == "starting"
        assert history.lost == set()
    history.add(LOST_S + 1, fleet({"a": "lost"}), ["a"], [], None)
    assert states_of(history) == {}
    assert history.lost == {"a"}


def test_an_instance_that_is_started_again_is_waited_for_until_it_is_said_to_be_lost():
    history = ScalingHistory("", CONFIG)
    history.add(0.0, fleet({"a": "ready"}), ["a"], [], None)
    for at in (1.0, 10 * LOST_S):
        history.add(at, fleet({"a": "starting"}), ["a"], [], None)
        assert states_of(history) == {"a": ("starting", at - 1.0)}
        assert history.lost == set()
    for at, lost in ((11 * LOST_S, set()), (12 * LOST_S + 1, {"a"})):
        history.add(at, fleet({"a": "lost"}), ["a"], [], None)
        assert history.lost == lost


def test_one_of_others_that_does_not_come_up_is_counted_on_until_that_is_longer_than_any_start():
    history = ScalingHistory("", CONFIG, longest_start_s=900.0)
    for at, counted in ((0.0, True), (900.0, True), (901.0, False)):
        history.add(at, fleet({"a": "starting"}), ["a"], [], None)
        assert (states_of(history) != {}, history.lost == set()) == (counted, counted)
    history.add(2000.0, fleet({"a": "ready"}), ["a"], [], None)
    assert states_of(history) == {"a": ("ready", 0.0)}
    assert history.start_s == 900.0, "what kept it was no start"


def test_loads_are_those_of_fleet_and_others_than_ours_are_left_out():
    load = InstanceLoad(
        "a",
        3,
        400,
        waiting_tokens=500,
        kv_tokens=600,
        waiting=2,
        seconds_per_token=0.001,
        saved_tokens=70,
        head_age_s=0.0,
    )
    history = ScalingHistory("", CONFIG)
    history.add(0.0, fleet({"a": "ready", "x": "ready"}, [load]), ["a"], [], None)
    (sample,) = history.samples()[-1].instances
    assert sample.load == load
    assert sample.capacity.kv_tokens == 1000


def test_counters_are_since_the_sample_before_also_when_they_begin_anew():
    history = ScalingHistory("", CONFIG)
    counted = [
        PoolTotals(10, 100, 8, slo_missed=2, tpot_kept=6, tpot_missed=1),
        PoolTotals(15, 160, 12, slo_missed=3, tpot_kept=8, tpot_missed=2),
        PoolTotals(4, 40, 4, slo_missed=0, tpot_kept=3, tpot_missed=0),
    ]
    for at, totals in enumerate(counted):
        history.add(float(at), fleet({}, totals={"": totals}), [], [], None)
    assert [sample.counted for sample in history.samples()] == [
        counted[0],
        PoolTotals(5, 60, 4, slo_missed=1, tpot_kept=2, tpot_missed=1),
        counted[2],
    ]


def test_samples_are_kept_for_both_windows():
    history = ScalingHistory("", CONFIG)
    for at in range(100):
        history.add(float(at), fleet({}), [], [], None)
    assert [s.at_s for s in history.samples()] == [float(at) for at in range(69, 100)]
