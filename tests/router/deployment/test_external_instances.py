"""Which instances that were not started here are used, drained and let go, round by round."""

import pytest

from dualmap.router.deployment import external_instances, name_watch
from dualmap.router.deployment.external_instances import GETS_NOTHING
from dualmap.router.deployment.pod_table import PodLabels
from dualmap.router.reach.reach import CallError
from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.role import Role
from tests.conftest import await_that

A, B = "10.0.0.1:8000", "10.0.0.2:8000"
PODS = {"kubernetes": {"label_selector": "app=vllm"}}


def named(*ids: str, **more: object) -> list[dict[str, object]]:
    return [{"url": f"http://{instance_id}", **more} for instance_id in ids]


def test_what_the_configuration_names_comes_at_once_and_leaves_when_it_is_drained(rounds):
    rounds.configure(instances=named(A))
    rounds.watched.busy.add(A)
    assert rounds.round() == {A}
    rounds.configure(instances=named(B))
    assert rounds.round() == {A, B}
    assert rounds.watched.told == [(A, "drain")]
    rounds.watched.busy.clear()
    assert rounds.round() == {B}


def test_instances_are_watched_with_the_role_and_revision_that_the_configuration_or_a_label_names(rounds):
    rounds.configure(instances=named(A, role="prefill", revision="old"), discovery=PODS)
    (watch,) = rounds.watches
    watch.labels, watch.found = {B: PodLabels(Role.DECODE, "new")}, {B: False}
    rounds.round()
    seen = {i: (spec.role, spec.revision) for i, spec in rounds.watched.specs.items()}
    assert seen == {A: (Role.PREFILL, "old"), B: (Role.DECODE, "new")}


@pytest.mark.parametrize("gateway", [{}, {"picker": {}}])
def test_a_pod_that_only_prefills_is_told_once_where_a_proxy_sends_requests(rounds, gateway):
    rounds.configure(discovery=PODS, gateway=gateway)
    (watch,) = rounds.watches
    watch.labels, watch.found = {A: PodLabels(Role.PREFILL), B: PodLabels(Role.DECODE)}, {A: False, B: False}
    rounds.round()
    rounds.round()
    told = [line for line in rounds.said if "is known" not in line]
    assert told == ([f"{A} gets no requests: {GETS_NOTHING}"] if gateway else [])


def named_as(rounds, purpose: PodLabels) -> None:
    rounds.configure(instances=[*named(A, role=purpose.role, revision=purpose.revision), *named(B)])


def labelled_as(rounds, purpose: PodLabels) -> None:
    rounds.configure(discovery=PODS)
    (watch,) = rounds.watches
    watch.labels, watch.found = {A: purpose}, {A: False, B: False}


@pytest.mark.parametrize("call", [named_as, labelled_as])
@pytest.mark.parametrize("becomes", [PodLabels(Role.DECODE, "1"), PodLabels(Role.PREFILL, "2")], ids=str)
def test_one_that_is_there_for_something_else_is_drained_before_it_comes_as_that(rounds, call, becomes):
    call(rounds, PodLabels(Role.PREFILL, "1"))
    rounds.round()
    rounds.watched.busy.add(A)
    call(rounds, becomes)
    rounds.round()
    assert rounds.watched.told == [(A, "drain")]
    assert rounds.watched.specs[A].role is Role.PREFILL
    rounds.watched.busy.clear()
    rounds.round()
    assert rounds.round() == {A, B}
    assert (rounds.watched.specs[A].role, rounds.watched.specs[A].revision) == becomes
    assert rounds.watched.members[A] is MemberState.READY


def test_an_ordered_role_holds_over_the_one_that_is_named(rounds):
    labelled_as(rounds, PodLabels(Role.PREFILL, "1"))
    rounds.round()
    rounds.external.roles = {A: Role.DECODE, "gone": Role.DECODE}
    rounds.round()
    assert rounds.watched.told == [(A, "drain")]
    assert rounds.round() == {A, B}
    assert (rounds.watched.specs[A].role, rounds.watched.specs[A].revision) == PodLabels(Role.DECODE, "1")
    labelled_as(rounds, PodLabels(Role.BOTH, "1"))
    rounds.round()
    assert rounds.watched.specs[A].role is Role.DECODE


def test_one_that_is_there_for_what_it_was_again_stays(rounds):
    named_as(rounds, PodLabels(Role.PREFILL))
    rounds.round()
    rounds.watched.busy.add(A)
    named_as(rounds, PodLabels(Role.DECODE))
    rounds.round()
    named_as(rounds, PodLabels(Role.PREFILL))
    assert rounds.round() == {A, B}
    assert rounds.watched.told == [(A, "drain"), (A, "undrain")]


def test_each_rank_that_a_url_names_comes_and_leaves_by_itself(rounds):
    rounds.configure(instances=named(f"{A}@0..2"))
    assert rounds.round() == {f"{A}@0", f"{A}@1", f"{A}@2"}
    rounds.configure(instances=named(f"{A}@1..2"))
    rounds.round()
    assert rounds.watched.told == [(f"{A}@0", "drain")]
    assert rounds.round() == {f"{A}@1", f"{A}@2"}


def test_pods_of_data_parallel_servers_are_an_instance_for_each_rank(rounds):
    rounds.configure(discovery={"kubernetes": PODS["kubernetes"] | {"data_parallel_size": 2}})
    (watch,) = rounds.watches
    watch.labels, watch.found = {B: PodLabels(Role.DECODE)}, {A: False, B: False}
    assert rounds.round() == {f"{A}@0", f"{A}@1", f"{B}@0", f"{B}@1"}
    assert {i: s.endpoint.rank for i, s in rounds.watched.specs.items() if s.role is Role.DECODE} == {
        f"{B}@0": 0,
        f"{B}@1": 1,
    }
    watch.found = {A: False, B: True}
    rounds.round()
    assert rounds.watched.told == [(f"{B}@0", "drain"), (f"{B}@1", "drain")]


def test_one_that_is_named_again_before_it_has_left_stays(rounds):
    rounds.configure(instances=named(A, B))
    rounds.watched.busy.add(B)
    rounds.configure(instances=named(A))
    rounds.round()
    rounds.configure(instances=named(A, B))
    assert rounds.round() == {A, B}
    assert rounds.watched.told == [(B, "drain"), (B, "undrain")]


def test_one_that_is_named_again_with_other_settings_first_leaves(rounds):
    rounds.configure(instances=named(A, B))
    rounds.watched.busy.add(B)
    rounds.configure(instances=named(A))
    rounds.round()
    rounds.configure(instances=[*named(A), *named(B, capacity={"max_running": 3})])
    assert rounds.round() == {A, B}
    assert rounds.watched.specs[B].capacity.max_running != 3
    rounds.watched.busy.clear()
    rounds.round()
    assert rounds.round() == {A, B}
    assert rounds.watched.specs[B].capacity.max_running == 3


def test_one_that_was_told_to_drain_while_fleet_is_away_is_told_when_it_may_stay(rounds):
    rounds.configure(instances=named(A, B))
    rounds.configure(instances=named(A))
    rounds.watched.fleet_is_away = True
    with pytest.raises(CallError):
        rounds.round()
    rounds.configure(instances=named(A, B))
    rounds.round()
    assert rounds.watched.told[-1] == (B, "undrain")


@pytest.mark.parametrize(
    ("vanishes_after", "left"),
    [
        ({A: False, B: True}, {A}),  # it was told to end: it is gone
        ({A: False, B: False}, {A, B}),  # it may have lost its labels only: what it runs may end
    ],
)
def test_a_pod_that_vanishes_is_let_go_at_once_if_it_was_told_to_end(rounds, vanishes_after, left):
    rounds.configure(discovery=PODS)
    (watch,) = rounds.watches
    assert rounds.round() == set()
    watch.found = {A: False, B: False}
    assert rounds.round() == {A, B}
    rounds.watched.busy.add(B)
    watch.found = vanishes_after
    assert rounds.round() == {A, B}
    watch.found = {A: False}
    assert rounds.round() == left
    assert (B, "drain") in rounds.watched.told
    rounds.watched.busy.clear()
    assert rounds.round() == {A}


def test_other_pods_are_looked_for_and_nobody_leaves_until_they_are_found(rounds):
    rounds.configure(discovery=PODS)
    rounds.watches[0].found = {A: False}
    assert rounds.round() == {A}
    rounds.configure(discovery={"kubernetes": {"label_selector": "app=other"}})
    assert rounds.round() == {A}
    assert rounds.watches[0].stopped
    assert rounds.watched.told == []
    rounds.watches[1].found = {B: False}
    assert rounds.round() == {B}


def test_without_discovery_its_pods_leave(rounds):
    rounds.configure(instances=named(A), discovery=PODS)
    rounds.watches[0].found = {B: False}
    assert rounds.round() == {A, B}
    rounds.configure(instances=named(A))
    assert rounds.round() == {A}
    assert rounds.watches[0].stopped


@pytest.mark.parametrize("late", [False, True])
def test_one_that_is_replaced_serves_until_its_successor_is_ready_or_late(rounds, monkeypatch, late: bool):
    rounds.configure(instances=named(A))
    assert rounds.round() == {A}
    rounds.watched.comes_as = MemberState.STARTING
    rounds.configure(instances=named(B))
    assert rounds.round() == {A, B}
    assert rounds.round() == {A, B}
    assert rounds.watched.told == []
    if late:
        monkeypatch.setattr(external_instances, "SUCCESSION_S", 0.0)
    else:
        rounds.watched.members[B] = MemberState.READY
    assert rounds.round() == {B}
    assert rounds.watched.told == [(A, "drain")]


# Names.

VLLM = "vllm.test:8000"


def test_a_name_with_several_addresses_is_an_instance_for_each_as_dns_changes(rounds):
    rounds.addresses["vllm.test"] = ["10.0.0.1", "10.0.0.2"]
    rounds.configure(instances=named(VLLM))
    assert rounds.round() == {A, B}
    endpoint = rounds.watched.specs[A].endpoint
    assert (str(endpoint), endpoint.authority) == (f"http://{A}", VLLM)
    rounds.watched.busy.add(B)
    rounds.addresses["vllm.test"] = ["10.0.0.1", "10.0.0.3"]
    c = "10.0.0.3:8000"
    await_that(lambda: rounds.round() == {A, B, c} and (B, "drain") in rounds.watched.told, "one comes, and one drains")
    rounds.watched.busy.clear()
    assert rounds.round() == {A, c}
    rounds.addresses["vllm.test"] = ["10.0.0.1"]
    await_that(lambda: rounds.round() == {A}, "the last one stays under its address")


def test_what_was_resolved_stays_while_dns_does_not_answer(rounds):
    rounds.addresses["vllm.test"] = ["10.0.0.1", "10.0.0.2"]
    asked = []
    resolve = rounds._resolve
    rounds._resolve = lambda name: asked.append(name) or resolve(name)
    rounds.configure(instances=named(VLLM))
    assert rounds.round() == {A, B}
    rounds.addresses.clear()
    before = len(asked)
    await_that(lambda: len(asked) > before + 5, "DNS was asked again")
    assert rounds.round() == {A, B}
    assert rounds.watched.told == []


@pytest.mark.parametrize(
    ("addresses", "settings", "ids"),
    [
        ([], {}, {VLLM}),
        (["10.0.0.1"], {}, {VLLM}),
        (["10.0.0.1"], {"resolve": True}, {A}),
        (["10.0.0.1", "10.0.0.2"], {"resolve": False}, {VLLM}),
        (["10.0.0.1", "10.0.0.2"], {"behind_balancer": True}, {VLLM}),
    ],
)
def test_a_name_is_one_instance_where_it_has_one_address_or_is_said_to_be_one(rounds, addresses, settings, ids):
    if addresses:
        rounds.addresses["vllm.test"] = addresses
    rounds.configure(instances=named(VLLM, **settings))
    assert rounds.round() == ids


def test_a_name_that_gets_more_addresses_is_split_and_that_instance_drains(rounds):
    rounds.addresses["vllm.test"] = ["10.0.0.1"]
    rounds.configure(instances=named(VLLM))
    assert rounds.round() == {VLLM}
    rounds.watched.busy.add(VLLM)
    rounds.addresses["vllm.test"] = ["10.0.0.1", "10.0.0.2"]
    await_that(lambda: rounds.round() == {VLLM, A, B}, "its addresses are known")
    assert rounds.watched.told[-1] == (VLLM, "drain")


def test_a_host_with_addresses_of_both_families_is_one_server():
    assert len(name_watch.resolve("localhost")) == 1
