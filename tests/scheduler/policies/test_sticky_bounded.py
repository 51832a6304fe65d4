"""sticky_bounded: a conversation stays unless its instance is a quarter busier than the mean; else Dynamo's cost."""

import pytest


def where(commands) -> str:
    (dispatch,) = commands
    return dispatch.instance_id


def busy(core, instance_id: str, requests: int, blocks: int = 1) -> None:
    """Requests that decode there, of so many blocks each."""
    for _ in range(requests):
        first = 1000 * (len(core.core.attempts) + 1)
        name = f"busy{first}"
        prompt = tuple(range(first, first + blocks))
        core.arrive(name, 512 * blocks, blocks=prompt, only=(instance_id,))
        core.first_token(name)


def chat_on(core, instance_id: str, *prompts: tuple[int, ...]) -> None:
    for i, prompt in enumerate(prompts):
        assert where(core.arrive(f"chat{i}", 512 * len(prompt), blocks=prompt, only=(instance_id,))) == instance_id
        core.finish(f"chat{i}")


def test_a_later_turn_stays_though_the_default_cost_names_another(script):
    placed = {}
    for policy in ("sticky_bounded", "dynamo_kv"):
        core = script("a", "b", policy=policy)
        chat_on(core, "a", (1, 2))
        busy(core, "a", 1, blocks=40)
        busy(core, "b", 1)
        placed[policy] = where(core.arrive("next", 1536, blocks=(1, 2, 3)))
    assert placed == {"sticky_bounded": "a", "dynamo_kv": "b"}


@pytest.mark.parametrize(("there", "elsewhere", "stays"), [(5, 3, True), (6, 3, False), (1, 0, False), (0, 0, True)])
def test_it_stays_up_to_a_quarter_above_the_mean(script, there: int, elsewhere: int, stays: bool):
    core = script("a", "b", policy="sticky_bounded")
    chat_on(core, "a", (1, 2))
    busy(core, "a", there, blocks=40)
    busy(core, "b", elsewhere)
    assert (where(core.arrive("next", 1536, blocks=(1, 2, 3))) == "a") is stays


def test_a_conversation_that_has_left_stays_where_it_went(script):
    core = script("a", "b", policy="sticky_bounded")
    chat_on(core, "a", (1, 2))
    busy(core, "a", 2, blocks=40)
    busy(core, "b", 1)
    assert where(core.arrive("left", 1536, blocks=(1, 2, 3))) == "b"
    core.first_token("left")
    busy(core, "b", 1, blocks=200)  # dear by now
    busy(core, "a", 1)
    assert where(core.arrive("next", 2048, blocks=(1, 2, 3, 4))) == "b"


@pytest.mark.parametrize(("chats", "stays"), [(1, True), (3, False)])
def test_a_first_turn_is_placed_by_the_default_cost_whoever_has_the_system_prompt(script, chats: int, stays: bool):
    core = script("a", "b", policy="sticky_bounded")
    chat_on(core, "a", *((1, 10 + i) for i in range(chats)))
    busy(core, "a", 1, blocks=40)
    busy(core, "b", 1)
    assert (where(core.arrive("next", 1024, blocks=(1, 99))) == "a") is stays


def test_a_conversation_leaves_an_instance_that_is_lost(script):
    core = script("a", "b", policy="sticky_bounded")
    chat_on(core, "a", (1, 2))
    core.lose("a")
    core.join("a", 2)
    assert where(core.arrive("next", 1536, blocks=(1, 2, 3))) == "b"  # the one that was not chosen longest


def test_a_turn_that_may_not_run_at_its_instance_runs_elsewhere_and_the_conversation_stays_there(script):
    core = script("a", "b", policy="sticky_bounded")
    chat_on(core, "a", (1, 2))
    assert where(core.arrive("next", 1536, blocks=(1, 2, 3), only=("b",))) == "b"
    core.finish("next")
    assert where(core.arrive("more", 2048, blocks=(1, 2, 3, 4))) == "b"


def test_turns_that_have_ended_are_active_no_more_though_no_first_turn_comes(script):
    core = script("a", "b", policy="sticky_bounded")
    chat_on(core, "a", *(tuple(range(turn + 1)) for turn in range(30)))
    active = core.core.policy._active["a"]
    assert len(active.prompts) <= 1  # an end that is not yet noticed


def test_an_idle_fleet_is_used_in_turn(script):
    core = script("a", "b", "c", policy="sticky_bounded")
    used = []
    for i in range(6):
        used.append(where(core.arrive(f"r{i}")))
        core.finish(f"r{i}")
    assert used == list("abcabc")
