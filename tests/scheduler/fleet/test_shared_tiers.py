"""What Fleet tells a gateway that comes late of tiers that several instances read."""

import pytest

from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.events import BlocksStored
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.fleet_core import FleetCore
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import GatewayReport
from dualmap.scheduler.fleet.signals import InstanceSignals

NOW = 100.0
READY, STARTING = MemberState.READY, MemberState.STARTING


def member(instance_id: str, state: MemberState = READY, model: str = "m", **fields: str) -> Member:
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
