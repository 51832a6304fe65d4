"""smetric: a later turn where most is cached while that meets the objective; else the least work x requests."""

import pytest

from dualmap.scheduler.events import BlocksRemoved, BlocksStored


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def chat_on(core, instance_id: str, prompt: tuple[int, ...], name: str = "chat") -> None:
    """A turn that has its first token and goes on."""
    assert where(core.arrive(name, 512 * len(prompt), blocks=prompt, only=(instance_id,))) == instance_id
    core.now += 0.512 * len(prompt)  # as configured, so that the pace stays what it is
    core.first_token(name)


def test_a_later_turn_stays_where_it_is_cached_though_an_idle_instance_has_a_smaller_product(script):
    core = script("a", "b", policy="smetric")
    chat_on(core, "a", (1, 2, 3, 4))
    assert where(core.arrive("next", 2560, blocks=(1, 2, 3, 4, 5))) == "a"


@pytest.mark.parametrize(("ahead_tokens", "stays"), [(4400, True), (4500, False)])
def test_it_leaves_when_another_meets_the_objective_and_its_own_does_not(script, ahead_tokens: int, stays: bool):
    core = script("a", "b", policy="smetric", ttft_slo_s=5.0)
    chat_on(core, "a", (1, 2, 3, 4))
    core.arrive("ahead", ahead_tokens, only=("a",))
    assert (where(core.arrive("next", 2560, blocks=(1, 2, 3, 4, 5))) == "a") is stays  # 512 tokens of its own


def test_the_objective_is_that_of_the_request(script):
    core = script("a", "b", policy="smetric", ttft_slo_s=0.4)
    chat_on(core, "a", (1, 2, 3, 4))
    core.arrive("ahead", 300, only=("a",))
    assert where(core.arrive("next", 2048 + 200, blocks=(1, 2, 3, 4), ttft_slo_s=0.5)) == "a"
    assert where(core.arrive("more", 200, blocks=(1,), ttft_slo_s=0.4)) == "b"


def test_where_none_meets_the_objective_it_stays(script):
    core = script("a", "b", policy="smetric", ttft_slo_s=5.0)
    chat_on(core, "a", (1, 2, 3, 4))
    core.arrive("on-a", 6000, only=("a",))
    core.arrive("on-b", 5500, only=("b",))
    # (6000 + 512) x 2 there, (5500 + 2560) x 1 elsewhere.
    assert where(core.arrive("next", 2560, blocks=(1, 2, 3, 4, 5))) == "a"


@pytest.mark.parametrize(("chats", "stays"), [(1, True), (3, False)])
def test_a_first_turn_goes_by_work_and_requests_whoever_has_the_system_prompt(script, chats: int, stays: bool):
    core = script("a", "b", policy="smetric")
    for i in range(chats):
        chat_on(core, "a", (1, 2, 3, 10 + i), f"chat{i}")
    assert (where(core.arrive("next", 2048, blocks=(1, 2, 3, 99))) == "a") is stays


def test_of_several_with_as_much_of_it_the_one_least_recently_chosen_takes_a_later_turn(script):
    core = script("a", "b", "c", policy="smetric")
    chat_on(core, "a", (1, 2, 3, 4))
    core.send(BlocksStored("b", (1, 2, 3, 4)))
    assert where(core.arrive("next", 2560, blocks=(1, 2, 3, 4, 5))) == "b"


@pytest.mark.parametrize(("left", "stays"), [(3, True), (2, False)])
def test_it_stays_only_while_more_than_a_tenth_of_what_it_could_reuse_is_cached(script, left: int, stays: bool):
    core = script("a", "b", policy="smetric")
    prompt = tuple(range(20))
    chat_on(core, "a", prompt)
    core.send(BlocksRemoved("a", prompt[left:]))
    assert (where(core.arrive("next", 21 * 512, blocks=(*prompt, 99), ttft_slo_s=60.0)) == "a") is stays


@pytest.mark.parametrize(("ahead_tokens", "instance_id"), [(1000, "a"), (3000, "b")])
def test_the_smallest_product_of_work_and_requests_takes_a_first_turn(script, ahead_tokens: int, instance_id: str):
    core = script("a", "b", policy="smetric")
    core.arrive("on-a", ahead_tokens, only=("a",))
    core.arrive("on-b0", 100, only=("b",))
    core.arrive("on-b1", 100, only=("b",))
    assert where(core.arrive("next", 1000)) == instance_id  # (work + 1000) x 1 against (200 + 1000) x 2


@pytest.mark.parametrize(("attention_tokens", "stays"), [(0, True), (1000, False)])
def test_work_counts_attention(script, attention_tokens: int, stays: bool):
    core = script("a", "b", policy="smetric", ttft_slo_s=5.0, capacity={"attention_tokens": attention_tokens})
    chat_on(core, "a", (1, 2))
    core.arrive("ahead", 2600, only=("a",))  # 2.6 s, or 6 with its attention
    assert (where(core.arrive("next", 1100, blocks=(1, 2))) == "a") is stays


def test_an_idle_fleet_is_used_in_turn(script):
    core = script("a", "b", "c", policy="smetric")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")
