"""The core driven by the names that `dualmap.scheduler` exports, and by no others."""

from typing import get_args

import pytest

from dualmap import scheduler
from dualmap.scheduler import (
    ChoiceReason,
    Command,
    Dispatch,
    Event,
    FailureCause,
    FirstToken,
    InstanceCapacity,
    InstanceJoined,
    InstanceLost,
    Placement,
    Policy,
    Reject,
    RejectReason,
    Request,
    RequestArrived,
    RequestFailed,
    RequestFinished,
    Scheduler,
    SchedulerConfig,
    Tick,
    register_policy,
)


def test_each_name_of_all_is_there_and_every_event_and_command_is_among_them():
    assert set(dir(scheduler)) >= set(scheduler.__all__)
    assert {kind.__name__ for kind in (*get_args(Event), *get_args(Command))} <= set(scheduler.__all__)


@pytest.fixture
def core() -> Scheduler:
    """Two instances are ready."""
    core = Scheduler(SchedulerConfig(policy="dualmap", ttft_slo_s=2.0, block_tokens=512))
    capacity = InstanceCapacity(prefill_tokens_per_s=10_000.0, kv_tokens=100_000)
    for name in ("a", "b"):
        assert core.handle(InstanceJoined(name, capacity=capacity), 0.0) == []
    return core


def test_a_request_runs_and_the_next_one_finds_its_prefix(core: Scheduler):
    (first,) = core.handle(RequestArrived(Request("r1", blocks=(11, 12, 13), prompt_tokens=1536)), 1.0)
    assert isinstance(first, Dispatch)
    assert (first.request_id, first.attempt, first.cached_tokens) == ("r1", 1, 0)
    core.handle(FirstToken("r1", 1), 1.2)
    core.handle(RequestFinished("r1", 1, output_tokens=40), 1.9)
    assert core.handle(Tick(), 2.0) == []
    (second,) = core.handle(RequestArrived(Request("r2", blocks=(11, 12, 13), prompt_tokens=1536)), 5.0)
    assert isinstance(second, Dispatch)
    assert (second.instance_id, second.reason, second.cached_tokens) == (first.instance_id, ChoiceReason.WARM, 1535)


def test_a_request_that_fails_before_its_first_token_runs_elsewhere(core: Scheduler):
    (first,) = core.handle(RequestArrived(Request("r", blocks=(), prompt_tokens=100)), 1.0)
    (second,) = core.handle(RequestFailed("r", 1, tokens_sent=0, cause=FailureCause.CONNECT), 1.1)
    assert isinstance(first, Dispatch)
    assert isinstance(second, Dispatch)
    assert (second.attempt, {first.instance_id, second.instance_id}) == (2, {"a", "b"})


def test_without_an_instance_a_request_is_rejected():
    core = Scheduler(SchedulerConfig())
    core.handle(InstanceJoined("a"), 0.0)
    core.handle(InstanceLost("a", 0, "unplugged"), 1.0)
    (reject,) = core.handle(RequestArrived(Request("r", blocks=(), prompt_tokens=10)), 2.0)
    assert isinstance(reject, Reject)
    assert reject.reason is RejectReason.NO_INSTANCE


class First:
    """The instance whose id comes first."""

    holds_requests = False

    def __init__(self, config: SchedulerConfig) -> None:
        self.views = {}

    def add(self, view) -> None:
        self.views[view.instance_id] = view

    def remove(self, view) -> None:
        del self.views[view.instance_id]

    def place(self, request, slo_s, avoid, now) -> Placement | None:
        usable = sorted(set(self.views) - avoid)
        if not usable:
            return None
        return Placement(self.views[usable[0]].estimate_ttft(request), (usable[0],), ChoiceReason.POLICY)


def test_a_registered_policy_decides(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dualmap.scheduler.config._REGISTERED", {})
    monkeypatch.setattr("dualmap.scheduler.policies.REGISTERED", {})
    policy: type[Policy] = First
    register_policy("first", policy)
    core = Scheduler(SchedulerConfig(policy="first"))
    for name in "cba":
        core.handle(InstanceJoined(name), 0.0)
    for number in range(3):
        (dispatch,) = core.handle(RequestArrived(Request(f"r{number}", blocks=(1,), prompt_tokens=512)), 1.0)
        assert (dispatch.instance_id, dispatch.reason) == ("a", ChoiceReason.POLICY)
