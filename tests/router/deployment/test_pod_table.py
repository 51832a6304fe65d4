"""Which pods are instances, and which of them are about to go."""

from typing import Any

import pytest

from dualmap.router.deployment.pod_table import NO_LABELS, PodTable
from dualmap.scheduler.role import Role

READY, NOT_READY = {"Ready": "True"}, {"Ready": "False"}


def pod(name: str, conditions: dict[str, str] | None = None, **metadata: Any) -> dict[str, Any]:
    status: dict[str, Any] = {"phase": "Running", "podIP": f"10.0.0.{name}"}
    if conditions is not None:
        status["conditions"] = [{"type": kind, "status": value} for kind, value in conditions.items()]
    return {"metadata": {"uid": f"uid-{name}", **metadata}, "status": status}


@pytest.fixture
def table() -> PodTable:
    table = PodTable(80)
    table.put(pod("9", READY))
    return table


def leaves(table: PodTable, name: str) -> bool:
    return table.found()[f"10.0.0.{name}:80"]


def test_a_pod_that_starts_is_left_to_its_watcher(table):
    table.put(pod("1", NOT_READY))
    assert not leaves(table, "1")


@pytest.mark.parametrize("lost", [NOT_READY, {"Ready": "Unknown"}])
def test_a_pod_that_is_ready_no_more_leaves_until_it_is_again(table, lost):
    table.put(pod("1", READY))
    table.put(pod("1", lost))
    assert leaves(table, "1")
    table.put(pod("1", READY))
    assert not leaves(table, "1")


@pytest.mark.parametrize(
    "signs",
    [
        {"conditions": READY, "deletionTimestamp": "2026-01-01T00:00:00Z"},
        {"conditions": READY | {"DisruptionTarget": "True"}},
        {"conditions": None, "deletionTimestamp": "2026-01-01T00:00:00Z"},
    ],
)
def test_a_pod_that_is_told_to_end_leaves_even_if_it_is_the_last(table, signs):
    table.put(pod("1", **signs))
    table.remove(pod("9"))
    assert leaves(table, "1")


def test_where_no_pod_is_ready_none_leaves_for_that(table):
    table.put(pod("1", READY))
    table.put(pod("1", NOT_READY))
    table.put(pod("9", NOT_READY))
    assert table.found() == {"10.0.0.1:80": False, "10.0.0.9:80": False}
    table.put(pod("2", NOT_READY))
    assert not leaves(table, "1"), "one that starts serves nobody yet"
    table.put(pod("9", READY))
    assert table.found() == {"10.0.0.1:80": True, "10.0.0.9:80": False, "10.0.0.2:80": False}


def test_pods_that_say_nothing_of_readiness_serve(table):
    table.put(pod("1"))
    table.put(pod("9", NOT_READY))
    assert table.found() == {"10.0.0.9:80": True, "10.0.0.1:80": False}


def test_a_new_list_forgets_who_is_not_in_it_and_remembers_who_was_ready(table):
    table.put(pod("1", READY))
    table.put(pod("2", READY))
    table.replace([pod("1", NOT_READY), pod("9", READY)])
    assert table.found() == {"10.0.0.9:80": False, "10.0.0.1:80": True}


@pytest.mark.parametrize(
    ("label", "role"),
    [
        ("prefill", Role.PREFILL),
        ("decode", Role.DECODE),
        ("both", Role.BOTH),
        ("prefill-decode", Role.BOTH),
        ("encode", Role.BOTH),
    ],
)
def test_a_label_says_what_a_pod_is_there_for(label, role):
    table = PodTable(80, "llm-d.ai/role")
    table.put(pod("1", READY, labels={"llm-d.ai/role": label}))
    assert table.labels().get("10.0.0.1:80", NO_LABELS).role is role


def test_a_label_says_of_which_revision_a_pod_is():
    table = PodTable(80, "llm-d.ai/role", "disaggregatedset.x-k8s.io/revision")
    table.put(pod("1", READY, labels={"disaggregatedset.x-k8s.io/revision": "a1b2"}))
    table.put(pod("2", READY, labels={"app": "vllm"}))
    assert table.labels() == {"10.0.0.1:80": (Role.BOTH, "a1b2")}
