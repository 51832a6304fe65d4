"""llm_d_optimized: the least prefill work, among warm instances until these are saturated."""

import pytest

from dualmap.scheduler import Request, SchedulerConfig
from dualmap.scheduler.events import BlocksStored
from dualmap.scheduler.policies import llm_d_optimized
from dualmap.scheduler.policies.llm_d_optimized import LlmDOptimized
from tests.scheduler.made import attempt_of, view_of

PROMPT = tuple(range(10))


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


@pytest.mark.parametrize(("cached", "stays"), [(8, True), (7, False)])
def test_who_holds_four_fifths_of_the_prompt_takes_it_though_another_has_less_work(script, cached: int, stays: bool):
    core = script("a", "b", policy="llm_d_optimized")
    warm = where(core.arrive("r0", 9000, blocks=PROMPT[:cached]))
    assert (where(core.arrive("r1", 5120, blocks=PROMPT)) == warm) is stays


@pytest.mark.parametrize(("prompt_tokens", "stays"), [(10 * 512 + 511, True), (11 * 512, False)])
def test_the_share_is_one_of_complete_blocks(script, prompt_tokens: int, stays: bool):
    core = script("a", "b", policy="llm_d_optimized")
    warm = where(core.arrive("r0", 9000, blocks=PROMPT[:8]))
    assert (where(core.arrive("r1", prompt_tokens, blocks=(*PROMPT, 10))) == warm) is stays


@pytest.mark.parametrize(
    ("work_tokens", "tokens_per_s", "stays"),
    [(18_000, 1000.0, True), (18_001, 1000.0, False), (18_001, 2000.0, True), (36_001, 2000.0, False)],
)
def test_warm_instances_are_saturated_when_a_first_token_is_18_s_later_there(
    script, work_tokens: int, tokens_per_s: float, stays: bool
):
    core = script("a", "b", policy="llm_d_optimized", capacity={"prefill_tokens_per_s": tokens_per_s})
    warm = where(core.arrive("r0", work_tokens, blocks=PROMPT[:4]))
    assert (where(core.arrive("r1", 2048, blocks=PROMPT[:4])) == warm) is stays


def test_the_best_warm_instance_is_compared_with_the_best_other_one(script):
    core = script(*"abcd", policy="llm_d_optimized")
    core.send(BlocksStored("a", PROMPT[:4]))
    core.send(BlocksStored("b", PROMPT[:4]))
    for instance_id, tokens in {"a": 40_000, "b": 17_000, "c": 9_000, "d": 500}.items():
        core.arrive(f"on-{instance_id}", tokens, only=(instance_id,))
    assert where(core.arrive("r1", 2048, blocks=PROMPT[:4])) == "b"
    core.arrive("more", 2_000, only=("b",))
    assert where(core.arrive("r2", 2048, blocks=PROMPT[:4])) == "d"


def test_without_a_penalty_warm_instances_are_never_saturated():
    policy = LlmDOptimized(SchedulerConfig(), max_ttft_penalty_s=0.0)
    warm, cold = view_of("a"), view_of("b")
    policy.add(warm)
    policy.add(cold)
    warm.dispatch(attempt_of(Request("r0", (1, 2), 500_000)), 0, 0.0)
    placement = policy.place(Request("r1", (1, 2), 1024), 5.0, frozenset(), 0.0)
    assert placement.estimate.instance_id == "a"


def test_where_all_are_warm_the_one_with_the_least_work_takes_it(script):
    core = script("a", "b", policy="llm_d_optimized")
    core.send(BlocksStored("b", PROMPT[:4]))
    assert where(core.arrive("r0", 30_000, blocks=PROMPT[:4], only=("a",))) == "a"
    assert where(core.arrive("r1", 2048, blocks=PROMPT[:4])) == "b"


@pytest.mark.parametrize(("ahead_tokens", "stays"), [(2000, True), (2100, False)])
def test_where_none_is_warm_what_is_cached_counts_against_what_is_ahead(script, ahead_tokens: int, stays: bool):
    core = script("a", "b", policy="llm_d_optimized")
    core.send(BlocksStored("a", PROMPT[:4]))
    core.arrive("r0", ahead_tokens, only=("a",))
    assert (where(core.arrive("r1", 5120, blocks=PROMPT)) == "a") is stays  # 2,048 tokens are cached there


def test_beyond_the_most_that_is_told_apart_instances_are_used_in_turn(script, monkeypatch):
    monkeypatch.setattr(llm_d_optimized, "QUEUE_THRESHOLD_TOKENS", 1000)
    core = script("a", "b", policy="llm_d_optimized")
    core.arrive("r0", 5000, only=("a",))
    core.arrive("r1", 2000, only=("b",))
    assert [where(core.arrive(f"s{i}", 100)) for i in range(4)] == list("abab")


def test_warm_instances_are_kept_beyond_the_most_that_is_told_apart(script, monkeypatch):
    monkeypatch.setattr(llm_d_optimized, "QUEUE_THRESHOLD_TOKENS", 1000)
    core = script("a", "b", policy="llm_d_optimized")
    core.arrive("r0", 100, only=("b",))
    core.arrive("r1", 5000, blocks=PROMPT[:4], only=("a",))
    assert where(core.arrive("r2", 2048, blocks=PROMPT[:4])) == "a"


def test_prompts_that_have_a_token_are_no_work(script):
    core = script("a", "b", policy="llm_d_optimized")
    for i in range(3):
        core.arrive(f"r{i}", 5000, only=("a",))
        core.first_token(f"r{i}")
    core.arrive("s", 100, only=("b",))
    assert where(core.arrive("next", 100)) == "a"


def test_an_idle_fleet_is_used_in_turn(script):
    core = script("a", "b", "c", policy="llm_d_optimized")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")
