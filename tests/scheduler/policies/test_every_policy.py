"""What holds for every policy, whatever it prefers."""

from collections import deque

import pytest

from dualmap import scheduler
from dualmap.scheduler.config import POLICY_NAMES
from dualmap.scheduler.policies import cache_aware, conversations, preble_e2, ray_prefix_affinity
from dualmap.scheduler.request import ChoiceReason

PEERS = [name for name in POLICY_NAMES if not name.startswith("dualmap")]


def run(core, count: int, first: int = 0) -> list[str]:
    """Conversations of growing prompts, one request at a time or several at once; where each was placed."""
    placed = []
    for i in range(first, first + count):
        chat, turn = i % 7, i // 7
        blocks = tuple(chat * 1_000_000 + k for k in range(1 + turn % 12)) if i % 5 else (i + 10**9,)
        core.now += 0.05
        core.arrive(f"r{i}", 512 * len(blocks), blocks=blocks, max_output_tokens=20)
        placed.append(core.attempt(f"r{i}").instance_id)
        if i >= first + 20 and f"r{i - 20}" in core.core.attempts:
            finish(core, f"r{i - 20}")
    return placed


def finish(core, request_id: str) -> None:
    """Whether it runs or still waits, it is over."""
    core.first_token(request_id)
    core.finish(request_id)
    if request_id in core.core.attempts:
        core.cancel(request_id)


def size(value: object, seen: set[int]) -> int:
    """Entries of all containers a policy owns; instance views are the core's."""
    if type(value).__name__ in ("InstanceView", "SchedulerConfig", "Holders", "LoadOrder") or value.__class__ in (
        int,
        str,
    ):
        return 0
    key = id(value)
    if key in seen:
        return 0
    seen.add(key)
    if isinstance(value, dict):
        return len(value) + sum(size(v, seen) for v in value.values())
    if isinstance(value, (list, set, deque)):
        return len(value) + sum(size(v, seen) for v in value)
    if isinstance(value, tuple):
        return sum(size(v, seen) for v in value)
    slots = [n for c in type(value).__mro__ for n in getattr(c, "__slots__", ())]
    own = [getattr(value, n) for n in slots if hasattr(value, n)] + list(getattr(value, "__dict__", {}).values())
    return sum(size(v, seen) for v in own) if type(value).__module__.startswith(scheduler.__name__) else 0


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_equal_histories_give_equal_placements(script, policy: str):
    assert run(script(*"abcde", policy=policy), 200) == run(script(*"abcde", policy=policy), 200)


@pytest.mark.parametrize("policy_name", POLICY_NAMES)
def test_a_removed_instance_is_chosen_no_more_and_its_state_is_forgotten(script, policy_name: str):
    core = script(*"abc", policy=policy_name)
    run(core, 60)
    core.lose("b")
    assert "b" not in run(core, 60, first=100)
    policy = core.core.policy
    for name in dir(policy):  # a compiled one has no __dict__
        value = getattr(policy, name)
        assert callable(value) or "b" not in keys_of(value, set()), name


def keys_of(value: object, seen: set[int]) -> set[object]:
    """Keys and items of the containers below, two levels deep."""
    if isinstance(value, dict):
        return set(value) | {k for v in value.values() if isinstance(v, dict) for k in v}
    if hasattr(value, "__dict__") and id(value) not in seen and type(value).__module__.endswith("placed_blocks"):
        seen.add(id(value))
        return {k for v in vars(value).values() for k in keys_of(v, seen)}
    return set()


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_an_instance_that_comes_back_starts_afresh(script, policy: str):
    core = script(*"ab", policy=policy)
    run(core, 60)
    core.lose("a")
    core.join("a", 2)
    assert set(run(core, 200, first=100)) <= {"a", "b"}
    core.lose("b")
    assert set(run(core, 60, first=400)) == {"a"}


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_a_drained_instance_is_passed_over(script, policy: str):
    core = script(*"ab", policy=policy)
    run(core, 30)
    core.drain("a")
    assert set(run(core, 30, first=100)) == {"b"}


@pytest.mark.parametrize("policy", POLICY_NAMES)
@pytest.mark.parametrize("blocks", [(), (1,), (1, 2, 3)])
def test_an_instance_that_failed_the_request_is_avoided_even_if_it_holds_the_prefix(script, policy: str, blocks):
    core = script(*"abc", policy=policy)
    for i in range(5):
        core.arrive(f"w{i}", 1536, blocks=blocks)
        finish(core, f"w{i}")
    core.arrive("r", 1536, blocks=blocks)
    tried = [core.attempt("r").instance_id]
    for attempt in (1, 2):
        core.fail("r", attempt)
        tried.append(core.attempt("r").instance_id)
    assert sorted(tried) == ["a", "b", "c"]


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_with_all_instances_to_avoid_there_is_no_place(script, policy: str):
    core = script(*"ab", policy=policy)
    core.arrive("r", 512, blocks=(1,))
    request = core.attempt("r").request
    assert core.core.policy.place(request, 5.0, frozenset("ab"), core.now) is None
    only = core.core.policy.place(request, 5.0, frozenset("a"), core.now)
    assert only.estimate.instance_id == "b"


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_without_an_instance_there_is_no_place(script, policy: str):
    assert [type(c).__name__ for c in script(policy=policy).arrive("r", blocks=(1,))] == ["Reject"]


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_state_is_bounded(script, policy: str, monkeypatch):
    monkeypatch.setattr(cache_aware, "MAX_TREE_BLOCKS", 200)
    monkeypatch.setattr(ray_prefix_affinity, "MAX_BLOCKS", 200)
    monkeypatch.setattr(conversations, "MAX_BLOCKS", 600)
    monkeypatch.setattr(preble_e2, "WINDOW_S", 10.0)
    core = script(*"abc", policy=policy, capacity={"kv_tokens": 200 * 512})
    sizes = []
    for part in range(3):
        for i in range(1000):
            core.now += 0.05
            name = f"{part}-{i}"
            core.arrive(name, 2048, blocks=tuple(part * 10**8 + i * 10 + k for k in range(4)))
            finish(core, name)
        sizes.append(size(core.core.policy, set()))
    assert sizes[2] <= 1.1 * sizes[1] + 100


@pytest.mark.parametrize("policy", PEERS)
def test_a_comparison_policy_dispatches_at_once(script, policy: str):
    core = script("a", "b", policy=policy, capacity={"max_running": 2})
    commands = [core.arrive(f"r{i}", 5000, blocks=(1, 2)) for i in range(40)]
    assert {c.reason for (c,) in commands} == {ChoiceReason.POLICY}
    assert core.core.snapshot(core.now) is None


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_an_idle_fleet_is_not_served_by_one_instance(script, policy: str):
    core = script(*"abcd", policy=policy)
    placed = []
    for i in range(200):
        core.now += 1.0
        core.arrive(f"r{i}", 1024, blocks=(10 * i, 10 * i + 1))
        placed.append(core.attempt(f"r{i}").instance_id)
        core.now += 1.024  # as configured, so that all are believed to be equally fast
        finish(core, f"r{i}")
    assert all(20 <= placed.count(i) <= 90 for i in "abcd")
