"""A rolling restart, step by step, with the fleet's states told by hand."""

import asyncio

import pytest

from dualmap.router.scaling.rolling_restart import RollingRestart
from dualmap.scheduler.events import InstanceLoad
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import FleetState, GatewayState
from dualmap.scheduler.instance_capacity import InstanceCapacity

READY, DRAINING, LOST = MemberState.READY, MemberState.DRAINING, MemberState.LOST
STARTING = MemberState.STARTING


class Instances:
    """Calls end as `answers` says, True where it says nothing."""

    def __init__(self, *ids: str) -> None:
        self.calls: list[tuple[str, str]] = []
        self.answers: list[bool] = []
        self.state: FleetState | None = None
        self._states = dict.fromkeys(ids, (READY, 1))
        self._news = asyncio.Event()
        self.running: set[str] = set()
        self.leaving: set[str] = set()
        self.away = False  # Fleet is
        self.added = 0
        self.drain_deadline_s = 100.0

    async def tell(self, **states: tuple[MemberState, int]) -> None:
        """Instance's state and incarnation, or None when it has left; returns when that was looked at."""
        self._states |= states
        loads = {i: InstanceLoad(i, 1, 0, waiting_tokens=0, kv_tokens=0) for i in self.running}
        members = tuple(member for i in self._states if (member := self.member(i)) is not None)
        gateways = (GatewayState("g", 1, "", age_s=0.0),)
        state = FleetState(1, True, members, gateways=gateways, loads=loads, totals={})
        self.state = None if self.away else state
        self._news.set()
        self._news = asyncio.Event()
        for _ in range(5):
            await asyncio.sleep(0)

    def member(self, instance_id: str) -> Member | None:
        if self.away or self._states.get(instance_id) is None:
            return None
        state, incarnation = self._states[instance_id]
        return Member(instance_id, incarnation, Endpoint("127.0.0.1", 80), state=state, capacity=InstanceCapacity())

    def staying(self) -> list[str]:
        return [i for i, state in self._states.items() if state is not None and i not in self.leaving]

    def add(self) -> str:
        self.added += 1
        self._states["extra"] = STARTING, 0
        return "extra"

    def let_go(self, instance_id: str, now: float) -> None:
        self.calls.append((instance_id, "let_go"))
        self.leaving.add(instance_id)

    async def call(self, instance_id: str, method: str) -> bool:
        self.calls.append((instance_id, method))
        return self.answers.pop() if self.answers else True

    async def news(self) -> None:
        await self._news.wait()


async def test_each_is_drained_then_restarted_and_the_next_waits_until_it_is_ready():
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    assert instances.calls == [("a", "drain")]
    instances.running = {"a"}
    await instances.tell(a=(DRAINING, 1))
    assert instances.calls == [("a", "drain")]
    instances.running = set()
    await instances.tell()
    assert instances.calls == [("a", "drain"), ("a", "restart_server")]
    assert restart.describe()["step"] == "a starts"
    await instances.tell(a=(READY, 1))  # not yet the new one
    assert restart.describe()["finished"] == []
    await instances.tell(a=(READY, 2))
    assert restart.describe()["finished"] == ["a"]
    await instances.tell(b=(DRAINING, 1))
    await instances.tell(b=(READY, 7))
    assert restart.describe()["finished"] == ["a", "b"]
    assert restart.done
    assert instances.added == 0


async def test_none_is_drained_while_another_is_not_ready():
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    await instances.tell(b=(LOST, 1))
    assert instances.calls == []
    assert restart.describe()["step"] == "before a: the others must be ready"
    await instances.tell(b=(READY, 2))
    assert instances.calls == [("a", "drain")]


async def test_a_call_that_fails_is_made_again():
    instances = Instances("a", "b")
    instances.answers = [True, False]
    RollingRestart([instances], instances)
    await instances.tell()
    assert instances.calls == [("a", "drain")]
    await instances.tell()
    assert instances.calls == [("a", "drain"), ("a", "drain")]


async def test_one_that_leaves_is_passed_over_at_whatever_step_it_is():
    instances = Instances("a", "b", "c", "d", "e", "f")
    restart = RollingRestart([instances], instances)
    instances.answers = [False]
    await instances.tell()
    await instances.tell(a=None)  # it has not heard that it is to drain
    assert instances.calls[-1] == ("b", "drain")
    instances.running = {"b"}
    await instances.tell(b=(DRAINING, 1))
    instances.leaving = {"b"}  # with what it has; and one whose turn has not come
    await instances.tell(c=None)
    assert instances.calls[-1] == ("d", "drain")
    await instances.tell(d=(DRAINING, 1))
    assert instances.calls[-1] == ("d", "restart_server")
    await instances.tell(d=None)
    assert [method for i, method in instances.calls if i == "c"] == []
    await instances.tell(e=(DRAINING, 1))
    await instances.tell(e=(READY, 2))
    await instances.tell(f=(DRAINING, 1))
    await instances.tell(f=(READY, 2))
    assert restart.done
    assert (restart.describe()["ids"], restart.describe()["error"]) == (["e", "f"], "")


async def test_one_that_comes_meanwhile_is_waited_for_and_not_restarted():
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    await instances.tell(c=(STARTING, 1))
    assert instances.calls == []
    await instances.tell(c=(READY, 1))
    await instances.tell(a=(DRAINING, 1))
    await instances.tell(a=(READY, 2))
    await instances.tell(b=(DRAINING, 1))
    await instances.tell(b=(READY, 2))
    assert restart.done
    assert restart.describe()["finished"] == ["a", "b"]


async def test_a_group_is_restarted_as_it_is_when_its_turn_comes():
    first, second = Instances("a", "b"), Instances("x", "y")
    restart = RollingRestart([first, second], second)
    await first.tell()
    assert restart.describe()["ids"] == ["a", "b", "x", "y"]
    await second.tell(y=None)
    for i in ("a", "b"):
        await first.tell(**{i: (DRAINING, 1)})
        await second.tell()
        await first.tell(**{i: (READY, 2)})
        await second.tell()
    assert restart.describe()["ids"] == ["a", "b", "x"]
    assert restart.extra == "extra", "the only one that is left of its group"


async def test_while_fleet_is_away_nobody_counts_as_gone():
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    await instances.tell(a=(DRAINING, 1))
    instances.away = True
    await instances.tell(a=(READY, 2))
    assert (restart.done, restart.describe()["finished"]) == (False, [])
    instances.away = False
    await instances.tell()
    assert instances.calls[-1] == ("b", "drain")


async def test_what_still_runs_at_the_deadline_does_not_hold_it_up():
    instances = Instances("a", "b")
    instances.drain_deadline_s = -1.0
    RollingRestart([instances], instances)
    instances.running = {"a"}
    await instances.tell()
    await instances.tell(a=(DRAINING, 1))
    assert instances.calls[:2] == [("a", "drain"), ("a", "restart_server")]


async def test_a_single_instance_is_replaced_by_another_meanwhile():
    instances = Instances("a")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    assert instances.added == 1
    assert instances.calls == []
    assert restart.extra == "extra"
    await instances.tell(extra=(READY, 1))
    await instances.tell(a=(DRAINING, 1))
    await instances.tell(a=(READY, 2))
    assert instances.calls == [("a", "drain"), ("a", "restart_server"), ("extra", "let_go")]
    assert restart.extra is None
    assert restart.done


async def test_a_single_instance_for_which_none_can_stand_in_is_not_restarted():
    instances = Instances("a")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    await instances.tell(extra=None)  # it has found no place
    assert instances.calls == []
    assert restart.extra is None
    assert restart.done
    assert restart.describe()["error"] == "extra has not started, which was to stand in for a"


async def test_a_single_instance_that_leaves_needs_none_to_stand_in():
    instances = Instances("a")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    assert restart.extra == "extra"
    await instances.tell(a=None, extra=None)  # the other one has found no place
    assert (restart.done, restart.describe()["error"]) == (True, "")


async def test_who_is_alone_by_the_time_of_its_turn_is_replaced_meanwhile():
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    await instances.tell(b=(LOST, 1))
    assert instances.added == 0
    await instances.tell(b=None)
    assert instances.added == 1
    assert restart.describe()["step"] == "extra, for the time being, starts"


async def test_who_waits_for_others_when_it_is_cancelled_is_not_drained():
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    await instances.tell(b=(LOST, 1))
    assert restart.cancel() == "no further instance is restarted"
    await instances.tell()
    assert restart.done
    assert (instances.calls, restart.describe()["error"]) == ([], "it was cancelled")


async def test_who_drains_when_it_is_cancelled_is_given_requests_again():
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    instances.running = {"a"}
    await instances.tell(a=(DRAINING, 1))
    said = restart.cancel()
    assert said == "no further instance is restarted; a is waited for, until it is ready or lost"
    instances.answers = [True, False]
    await instances.tell()
    assert instances.calls == [("a", "drain"), ("a", "undrain")]
    await instances.tell()
    assert instances.calls == [("a", "drain"), ("a", "undrain"), ("a", "undrain")]
    await instances.tell()
    assert restart.instance_id == "a", "until that is seen, or else it would count as one that leaves"
    await instances.tell(a=(READY, 1))
    assert (restart.done, restart.instance_id) == (True, None)
    assert (restart.describe()["finished"], restart.describe()["error"]) == ([], "it was cancelled")


async def test_a_look_that_was_under_way_at_a_cancellation_may_still_see_it_drain():
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    instances.running = {"a"}
    await instances.tell()
    restart.cancel()
    await instances.tell()
    assert instances.calls == [("a", "drain"), ("a", "undrain")]
    await instances.tell(a=(DRAINING, 1))
    assert restart.instance_id == "a"
    await instances.tell(a=(READY, 1))
    assert (restart.done, restart.instance_id) == (True, None)


@pytest.mark.parametrize(("state", "finished"), [((READY, 2), ["a"]), ((LOST, 1), [])])
async def test_whose_server_restarts_when_it_is_cancelled_is_waited_for_until_it_is_ready_or_lost(state, finished):
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    await instances.tell(a=(DRAINING, 1))
    restart.cancel()
    await instances.tell(a=(STARTING, 1))
    assert not restart.done
    await instances.tell(a=state)
    assert restart.done
    assert (restart.describe()["finished"], restart.describe()["error"]) == (finished, "it was cancelled")
    assert instances.calls == [("a", "drain"), ("a", "restart_server")]


async def test_one_that_cannot_be_told_that_it_stays_is_waited_for_until_it_is_lost():
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    instances.running = {"a"}
    await instances.tell(a=(DRAINING, 1))
    restart.cancel()
    instances.answers = [False] * 3
    await instances.tell()
    await instances.tell(a=(LOST, 1))
    await instances.tell()
    assert restart.done


async def test_who_stands_in_goes_when_it_is_cancelled():
    instances = Instances("a")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    restart.cancel()
    await instances.tell()
    assert instances.calls == [("extra", "let_go")]
    assert (restart.done, restart.extra) == (True, None)


async def test_who_stands_in_stays_where_the_other_is_lost():
    instances = Instances("a")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    await instances.tell(extra=(READY, 1))
    await instances.tell(a=(DRAINING, 1))
    restart.cancel()
    await instances.tell(a=(LOST, 1))
    assert instances.calls == [("a", "drain"), ("a", "restart_server")]
    assert (restart.done, restart.extra) == (True, None)


async def test_a_restart_whose_last_instance_comes_up_was_cancelled_too_late():
    instances = Instances("a", "b")
    restart = RollingRestart([instances], instances)
    await instances.tell()
    await instances.tell(a=(DRAINING, 1))
    await instances.tell(a=(READY, 2))
    await instances.tell(b=(DRAINING, 1))
    restart.cancel()
    await instances.tell(b=(READY, 2))
    assert (restart.done, restart.describe()["error"]) == (True, "")
