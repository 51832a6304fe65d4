"""Fleet's epochs, by hand-made reports, the time told by hand."""

from dataclasses import replace

import pytest

from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.agreed_depths import AgreedDepths
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.fleet_core import (
    RETELL_S,
    SETTLE_S,
    SILENCE_S,
    TAKEN_S,
    WATCHER_SILENCE_S,
    FleetCore,
)
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from dualmap.scheduler.fleet.messages import Beat, FleetState, GatewayReport, PoolPlan
from dualmap.scheduler.fleet.signals import InstanceSignals, LoadSample

UNIX_S = 1_000_000.0  # what Unix seconds are ahead of the clock of these tests


class Told:
    """A Fleet that is told the time."""

    def __init__(self, *expected: str, first_number: int = 1) -> None:
        self.now = 100.0
        config = {"": SchedulerConfig()}
        self.core = FleetCore(expected, config, self.now, first_number, unix_now=self.now + UNIX_S)

    def report(self, member: Member, signals: InstanceSignals | None = None) -> None:
        self.core.report(member, signals, self.now)

    def sync(self, known_epoch: int = 0, **more) -> Membership | None:
        return self.core.sync(GatewayReport("gateway-0", known_epoch, **more), self.now).membership

    def state(self, *reports: GatewayReport) -> FleetState:
        """After these reports of gateways."""
        for each in reports:
            self.core.sync(each, self.now)
        return self.core.state(self.now)

    def pass_time(self, seconds: float, *reporting: Member) -> None:
        """As it passes where gateways ask each 100 ms and these instances report."""
        for _ in range(round(seconds / 0.1) + 1):
            self.now += 0.1
            self.core.state(self.now)
            for member in reporting:
                self.report(member)


def ready(instance_id: str, incarnation: int = 1) -> Member:
    """One that was started here."""
    return Member(
        instance_id,
        incarnation,
        Endpoint("127.0.0.1", 8000),
        state=MemberState.READY,
        capacity=InstanceCapacity(),
        pid=7,
    )


def test_publishes_nothing_until_every_expected_instance_has_reported():
    fleet = Told("a", "b")
    fleet.report(ready("a"))
    assert fleet.sync() is None
    fleet.report(ready("b"))
    assert [m.instance_id for m in fleet.sync().members] == ["a", "b"]


def test_does_not_wait_for_a_silent_instance_beyond_the_settling_time():
    fleet = Told("a", "b")
    fleet.report(ready("a"))
    fleet.pass_time(SETTLE_S, ready("a"))
    assert [m.instance_id for m in fleet.sync().members] == ["a"]


def test_a_gateway_that_knows_the_epoch_is_told_nothing():
    fleet = Told("a")
    fleet.report(ready("a"))
    epoch = fleet.sync().epoch
    fleet.report(ready("a"))
    assert fleet.sync(epoch) is None


@pytest.mark.parametrize(
    "changed",
    [
        replace(ready("a"), state=MemberState.DRAINING),
        replace(ready("a"), endpoint=Endpoint("127.0.0.1", 8001)),
        replace(ready("a"), incarnation=2),
        replace(ready("a"), model_cards=({"id": "m"},)),
    ],
)
def test_each_change_makes_a_higher_epoch(changed):
    fleet = Told("a")
    fleet.report(ready("a"))
    before = fleet.sync()
    fleet.report(changed)
    after = fleet.sync(before.epoch)
    assert after.epoch > before.epoch
    assert after.members == (changed,)


def loading(reason: str) -> Member:
    return replace(ready("a"), state=MemberState.STARTING, reason=reason)


def test_what_gateways_only_show_is_published_once_a_second():
    fleet = Told("a")
    fleet.report(loading("connection refused"))
    epoch = fleet.sync().epoch
    for reason in ("503: it loads its model", "no answer within 2 s"):
        fleet.report(loading(reason))
        assert fleet.sync(epoch) is None
    fleet.pass_time(RETELL_S, loading("no answer within 2 s"))
    told = fleet.sync(epoch)
    assert told.members == (loading("no answer within 2 s"),)
    fleet.report(ready("a"))
    assert fleet.sync(told.epoch).members == (ready("a"),)


def test_a_stopped_instance_is_told_at_once_since_it_is_forgotten_next():
    fleet = Told("a")
    fleet.report(replace(ready("a"), state=MemberState.STOPPING))
    epoch = fleet.sync().epoch
    fleet.report(replace(ready("a"), state=MemberState.STOPPED))
    assert fleet.sync(epoch).members[0].state is MemberState.STOPPED


def test_a_reason_that_changes_holds_up_nobody_who_waits_for_an_instance_to_be_drained():
    fleet = Told("a")
    draining = replace(ready("a"), state=MemberState.DRAINING)
    fleet.report(draining)
    fleet.pass_time(SETTLE_S, draining)
    epoch = fleet.sync().epoch
    fleet.report(replace(draining, reason="it was told to"))
    assert fleet.state(GatewayReport("gateway-0", epoch)).is_drained("a")


def test_a_stopped_instance_is_not_lost_by_its_silence():
    fleet = Told("a")
    fleet.report(replace(ready("a"), state=MemberState.STOPPED))
    fleet.pass_time(2 * SILENCE_S)
    assert fleet.sync().members[0].state is MemberState.STOPPED


def test_a_report_of_an_older_incarnation_is_dropped():
    fleet = Told("a")
    fleet.report(ready("a", incarnation=2))
    fleet.report(replace(ready("a", incarnation=1), state=MemberState.LOST))
    assert fleet.sync().members == (ready("a", incarnation=2),)


def test_a_silent_instance_is_lost_and_comes_back_with_its_next_report():
    fleet = Told("a")
    fleet.report(ready("a"))
    epoch = fleet.sync().epoch
    fleet.pass_time(SILENCE_S)
    lost = fleet.sync(epoch)
    (member,) = lost.members
    assert (member.state, member.reason) == (MemberState.LOST, "its watcher has said nothing for 5 s")
    assert member.since == pytest.approx(fleet.now + UNIX_S)
    fleet.report(ready("a"))
    assert fleet.sync(lost.epoch).members == (ready("a"),)


def test_servers_that_run_on_their_own_are_not_lost_while_their_watcher_is_started_again():
    fleet = Told("a")
    fleet.report(replace(ready("a"), pid=0))
    fleet.pass_time(SILENCE_S)
    assert fleet.sync().members[0].state is MemberState.READY
    fleet.pass_time(WATCHER_SILENCE_S)
    assert fleet.sync().members[0].reason == "its watcher has said nothing for 30 s"


def test_nothing_new_is_said_by_a_beat_which_counts_as_a_report():
    fleet = Told("a")
    fleet.report(ready("a"), InstanceSignals("a", LoadSample(1, 0, 0.5)))
    beat = Beat("a", 1, MemberState.READY, 0, load_age_s=0.25)
    for _ in range(20):
        fleet.pass_time(SILENCE_S / 10)
        assert fleet.core.beat(beat, fleet.now) is not None
    news = fleet.core.sync(GatewayReport("gateway-0"), fleet.now)
    assert news.membership.members[0].state is MemberState.READY
    (signals,) = news.signals.signals
    assert (signals.load, signals.load_age_s) == (LoadSample(1, 0, 0.5), pytest.approx(0.25))


@pytest.mark.parametrize(
    "beat",
    [
        Beat("b", 1, MemberState.READY, 0, load_age_s=-1.0),
        Beat("a", 2, MemberState.READY, 0, load_age_s=-1.0),
        Beat("a", 1, MemberState.DRAINING, 0, load_age_s=-1.0),
        Beat("a", 1, MemberState.READY, 0, load_age_s=0.0),  # of a load that was never told
    ],
)
def test_a_beat_of_what_is_not_known_is_not_enough(beat: Beat):
    fleet = Told("a")
    fleet.report(ready("a"))
    assert fleet.core.beat(beat, fleet.now) is None


def test_one_that_was_lost_by_its_silence_has_to_report():
    fleet = Told("a")
    fleet.report(ready("a"))
    fleet.pass_time(SILENCE_S)
    fleet.sync()
    assert fleet.core.beat(Beat("a", 1, MemberState.READY, 0, load_age_s=-1.0), fleet.now) is None


def test_a_restarted_fleet_publishes_an_epoch_above_any_a_gateway_knows():
    fleet = Told("a")
    fleet.report(ready("a"))
    assert fleet.sync(known_epoch=41).epoch > 41


def test_nobody_is_lost_because_fleet_itself_stood_still():
    fleet = Told("a")
    fleet.report(ready("a"))
    epoch = fleet.sync().epoch
    fleet.now += 10 * SILENCE_S
    assert fleet.sync(epoch) is None
    fleet.pass_time(SILENCE_S)
    assert fleet.sync(epoch).members[0].state is MemberState.LOST


def test_a_restarted_fleet_waits_for_every_instance_that_a_gateway_has_books_of():
    fleet = Told("a")
    fleet.report(ready("a"))
    loads = (
        InstanceLoad("a", 0, 0, waiting_tokens=0, kv_tokens=0),
        InstanceLoad("b", 1, 0, waiting_tokens=0, kv_tokens=0),
    )
    assert fleet.sync(known_epoch=41, loads=loads) is None
    fleet.report(ready("b"))
    assert [m.instance_id for m in fleet.sync(known_epoch=41, loads=loads).members] == ["a", "b"]


def test_a_restarted_fleet_takes_over_servers_that_run_on_their_own_from_gateways():
    """Their one watcher may be away as well; those of ours have processes of their own that report."""
    own, other, gone = ready("a"), replace(ready("b"), pid=0), replace(ready("c"), pid=0)
    fleet = Told("a", "b", "c")
    news = fleet.core.sync(GatewayReport("g", 41), fleet.now)
    assert (news.tell_members, news.membership) == (True, None)
    fleet.core.forget("c")
    report = GatewayReport("g", 41, members=(own, other, gone), tells_members=True)
    news = fleet.core.sync(report, fleet.now)
    assert (news.tell_members, news.membership) == (False, None)  # "a" has to report itself
    assert fleet.core.state(fleet.now).members == (other,)
    fleet.report(own)
    assert fleet.sync(41).members == (own, other)
    fleet.pass_time(WATCHER_SILENCE_S + 1.0, own)
    assert [m.state for m in fleet.sync(41).members] == [MemberState.READY, MemberState.LOST]


def test_a_fleet_that_expects_nobody_asks_gateways_that_know_more_before_it_says_that_nobody_is_there():
    """Which servers there are is found out later, as where pods are looked for."""
    other = replace(ready("b"), pid=0)
    fleet = Told()
    news = fleet.core.sync(GatewayReport("g", 41), fleet.now)
    assert (news.tell_members, news.membership) == (True, None)
    news = fleet.core.sync(GatewayReport("g", 41), fleet.now)  # it has not heard that
    assert (news.tell_members, news.membership) == (True, None)
    assert fleet.sync(41, members=(other,), tells_members=True).members == (other,)


def test_a_gateway_that_knows_none_may_say_so():
    fleet = Told()
    assert fleet.core.sync(GatewayReport("g", 41), fleet.now).tell_members
    news = fleet.core.sync(GatewayReport("g", 41, tells_members=True), fleet.now)
    assert news.membership == Membership(42, ())


def test_a_gateway_of_another_fleet_that_comes_late_keeps_what_is_not_yet_watched_again():
    """Whatever its epoch: the new Fleet may have counted as far."""
    serving = replace(ready("a"), pid=0)
    begun = replace(serving, state=MemberState.STARTING, incarnation=9)
    fleet = Told(first_number=1000)
    fleet.report(begun)
    assert fleet.sync(members=()).members == (begun,)  # to one that knows no other
    late = GatewayReport("late", 1, events_heard=7)
    news = fleet.core.sync(late, fleet.now)
    assert (news.tell_members, news.membership) == (True, None)
    news = fleet.core.sync(replace(late, events_heard=1001, members=(serving,), tells_members=True), fleet.now)
    assert news.membership == Membership(2, (serving,))
    fleet.report(begun)  # who watches has not seen it yet
    assert fleet.state().members == (serving,)
    fleet.report(replace(begun, state=MemberState.READY))
    assert fleet.sync(2).members == (replace(begun, state=MemberState.READY),)


def test_what_gateways_knew_does_not_hide_for_long_that_a_server_only_starts():
    serving = replace(ready("a"), pid=0)
    begun = replace(serving, state=MemberState.STARTING, incarnation=9)
    fleet = Told()
    fleet.core.sync(GatewayReport("g", 41, members=(serving,), tells_members=True), fleet.now)
    fleet.pass_time(TAKEN_S - 1.0, begun)
    assert fleet.state().members == (serving,)
    fleet.pass_time(2.0, begun)
    assert fleet.state().members == (begun,)


def test_what_an_instance_reports_counts_more_than_what_gateways_knew():
    fleet = Told("a", "b")
    drains = replace(ready("a"), state=MemberState.DRAINING, pid=0)
    fleet.report(drains)
    fleet.core.sync(GatewayReport("g", 41, members=(replace(ready("a"), pid=0),)), fleet.now)
    assert fleet.core.state(fleet.now).members == (drains,)


def test_an_instance_that_is_forgotten_is_no_member_whatever_it_still_says():
    fleet = Told("a", "b")
    fleet.report(ready("a"))
    fleet.report(ready("b"))
    epoch = fleet.sync().epoch
    fleet.core.forget("b")
    fleet.report(replace(ready("b"), state=MemberState.LOST))
    after = fleet.sync(epoch)
    assert [m.instance_id for m in after.members] == ["a"]
    fleet.report(ready("b", incarnation=2))
    assert [m.instance_id for m in fleet.sync(after.epoch).members] == ["a", "b"]


def test_members_that_come_up_together_are_counted_once(monkeypatch):
    counts = []
    monkeypatch.setattr(AgreedDepths, "resize", lambda _, members: counts.append(len(members)))
    fleet = Told()
    fleet.pass_time(SETTLE_S)
    for number in range(50):
        fleet.report(ready(f"i{number}"))
    assert len(fleet.sync().members) == 50
    assert counts == [50]


def test_nothing_is_kept_of_instances_that_came_and_went_but_their_numbers():
    fleet = Told()
    for number in range(50):
        fleet.report(ready(f"i{number}"))
        fleet.core.forget(f"i{number}")
    fleet.pass_time(SETTLE_S)
    assert fleet.sync().members == ()
    assert not fleet.core._reported_at


def test_plans_reach_the_gateways():
    fleet = Told("a")
    fleet.report(ready("a"))
    plan = PoolPlan("code", 3, 1, most=4)
    fleet.core.state(fleet.now, [replace(plan, wanted=2)])
    fleet.core.state(fleet.now, [plan])
    assert fleet.core.sync(GatewayReport("gateway-0"), fleet.now).plans == (plan,)


def test_an_instance_is_drained_once_all_gateways_know_it_and_none_has_a_request_there():
    fleet = Told("a")
    fleet.report(ready("a"))
    fleet.pass_time(SETTLE_S, ready("a"))
    epoch = fleet.sync().epoch
    fleet.report(replace(ready("a"), state=MemberState.DRAINING))
    first, second = GatewayReport("gateway-0", epoch + 1), GatewayReport("gateway-1", epoch + 1)
    busy = (InstanceLoad("a", 1, 0, waiting_tokens=0, kv_tokens=0),)
    assert not fleet.state(replace(first, epoch=epoch), second).is_drained("a")
    assert not fleet.state(first, replace(second, loads=busy)).is_drained("a")
    assert fleet.state(first, second).is_drained("a")


def test_nothing_counts_as_drained_before_gateways_had_the_time_to_say_what_they_have():
    fleet = Told("a")
    fleet.report(replace(ready("a"), state=MemberState.DRAINING))
    assert not fleet.state().is_drained("a")
    assert not fleet.state(GatewayReport("gateway-0", 1)).is_drained("a")
    fleet.pass_time(SETTLE_S, replace(ready("a"), state=MemberState.DRAINING))
    assert fleet.state(GatewayReport("gateway-0", fleet.state().epoch)).is_drained("a")


def test_what_an_instance_said_before_it_turned_out_to_be_several_is_forgotten():
    fleet = Told()
    fleet.core.report(ready("a"), InstanceSignals("a", LoadSample(1, 0, 0.0)), fleet.now)
    several = replace(ready("a"), capacity=InstanceCapacity(cache_tokens=1))
    fleet.core.report(several, InstanceSignals("a", None), fleet.now)
    fleet.pass_time(SETTLE_S, several)
    news = fleet.core.sync(GatewayReport("gateway-0", 0), fleet.now)
    assert [signals.load for signals in news.signals.signals] == [None]
