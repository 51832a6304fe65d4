"""What Fleet tells gateways of caches: that gateways which come late hear of tiers that several instances read, and all
hear again of an instance that was lost."""

from typing import Any

import pytest

from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.events import BlocksStored, CacheCleared
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.fleet_core import SILENCE_S, FleetCore
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import GatewayReport
from dualmap.scheduler.fleet.signals import InstanceSignals

NOW = 100.0
READY, STARTING = MemberState.READY, MemberState.STARTING


def member(instance_id: str, state: MemberState = READY, model: str = "m", **fields: Any) -> Member:
    cards = ({"id": model},)
    at = Endpoint("127.0.0.1", 8000)
    return Member(instance_id, 1, at, state=state, capacity=InstanceCapacity(), model_cards=cards, **fields)


@pytest.mark.parametrize(
    ("media", "reader", "told"),
    [
        (("remote",), member("b"), True),
        (("cpu",), member("b"), False),
        ((), member("b"), False),
        (("remote",), member("b", model="other"), False),
        (("remote",), member("b", revision="2"), False),
        (("remote",), member("b", pool="second"), False),
        (("remote",), member("b", STARTING), False),
    ],
)
def test_what_a_gone_instance_has_left_is_told_as_of_one_that_reads_it(
    media: tuple[str, ...], reader: Member, told: bool
) -> None:
    config = SchedulerConfig(shared_media=media)
    core = FleetCore((), {"": config, "second": config}, NOW)
    core.report(member("a"), InstanceSignals("a", cache=(BlocksStored("a", (1, 2), "remote"),)), NOW)
    core.report(reader, InstanceSignals("b", cache=(BlocksStored("b", (3,)),)), NOW)
    core.forget("a")
    news = core.sync(GatewayReport("late", 0, signals=10**9), NOW + 10.0)
    assert [change for change in news.signals.cache if isinstance(change, BlocksStored)] == [
        BlocksStored("b", (3,)),
        *([BlocksStored("b", (1, 2), "remote")] if told else []),
    ]


def test_an_instance_that_comes_back_tells_all_it_holds_since_gateways_have_forgotten_it() -> None:
    core = FleetCore((), {"": SchedulerConfig()}, NOW)
    held = BlocksStored("a", (1, 2))
    all_of_it = InstanceSignals("a", cache=(held,), cache_complete=True)
    core.report(member("a", pid=7), all_of_it, NOW)
    told = core.sync(GatewayReport("gateway", 0), NOW).signals
    assert held in told.cache
    for step in range(1, 12):
        now = NOW + step * SILENCE_S / 10
        news = core.sync(GatewayReport("gateway", 0), now)
    assert news.membership.members[0].state is MemberState.LOST
    assert not core.report(
        member("a", pid=7), InstanceSignals("a", cache=(BlocksStored("a", (3,)),), cache_from=1), now
    )
    assert core.report(member("a", pid=7), all_of_it, now)
    assert core.sync(GatewayReport("gateway", 0, told.number), now).signals.cache == (CacheCleared("a"), held)
