"""When two legs pay, what a fetch takes, and what a prompt that waits to be fetched takes of memory
(scheduler/core/legs.py). A token is a millisecond."""

import pytest

from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.role import Leg, Role

ROLES = {"p": Role.PREFILL, "d": Role.DECODE}


@pytest.fixture
def fleet(script):
    """Instances are named by their role: p1 prefills, d1 decodes."""

    def make(*instance_ids: str, kv_tokens: int = 1_000_000, **config):
        core = script(**config)
        for instance_id in instance_ids:
            core.join(instance_id, role=ROLES[instance_id[0]], kv_tokens=kv_tokens)
        return core

    return make


def arrive(core, name: str, tokens: int = 2048, **request):
    """A prompt of its own."""
    blocks = tuple(hash_trace_ids(range(hash_of(name), hash_of(name) + tokens // 512)))
    return core.arrive(name, tokens, blocks=blocks, **{"may_split": True, **request})


def hash_of(name: str) -> int:
    return 1000 * int.from_bytes(name.encode(), "big")


def legs(commands) -> list[tuple[Leg, str]]:
    return [(c.leg, c.instance_id) for c in commands if isinstance(c, Dispatch)]


def answers(core, *instance_ids: str) -> None:
    """One more is answered at each of them."""
    for instance_id in instance_ids:
        name = f"answer-{len(core.core.attempts)}"
        core.arrive(name, 10, only=(instance_id,))
        core.first_token(name)


# Whether two legs pay.


def test_where_nobody_is_held_up_a_prompt_is_computed_where_it_is_answered(fleet):
    core = fleet("p1", "d1", "d2")
    assert legs(arrive(core, "a", 8000)) == [(Leg.WHOLE, "d1")] or legs(arrive(core, "b", 8000))[0][0] is Leg.WHOLE


def test_a_prompt_that_would_hold_up_others_is_computed_elsewhere(fleet):
    core = fleet("p1", "d1", "d2")
    answers(core, "d1", "d2")
    assert legs(arrive(core, "a")) == [(Leg.PREFILL, "p1")]


def test_who_decodes_helps_where_those_who_prefill_are_far_behind(fleet):
    core = fleet("p1", "d1", "d2", taking=False)
    answers(core, "d1", "d2")
    seen = [legs(arrive(core, f"r{number}", max_output_tokens=10)) for number in range(14)]
    assert seen[0] == [(Leg.PREFILL, "p1")]
    assert any(leg is Leg.WHOLE for dispatched in seen for leg, _ in dispatched)
    waiting = core.view("p1").waiting_tokens
    assert 2048 < waiting < 14 * 2048, "some wait there, and not all"


def test_who_has_little_memory_left_helps_less(script):
    def whole(kv_tokens: int) -> int:
        core = script(taking=False)
        core.join("p1", role=Role.PREFILL)
        core.join("d1", role=Role.DECODE, kv_tokens=kv_tokens)
        core.arrive("big", 10_000, only=("d1",))
        core.first_token("big")
        for number in range(30):
            arrive(core, f"r{number}", max_output_tokens=10)
        core.core.check()
        return sum(attempt.request.leg is Leg.WHOLE for attempt in core.core.attempts.values()) - 1

    assert 0 < whole(20_000) < whole(1_000_000) < 30


def test_a_number_of_tokens_may_be_told_instead(fleet):
    core = fleet("p1", "d1", min_prefill_leg_tokens=2000)
    assert legs(arrive(core, "longer", 2000)) == [(Leg.PREFILL, "p1")]
    answers(core, "d1")
    assert legs(arrive(core, "shorter", 1999)) == [(Leg.WHOLE, "d1")]


# What a fetch takes.


def fetches(core, name: str, took_s: float, **request) -> Dispatch:
    """The decode leg of a prompt that is fetched in so many seconds."""
    arrive(core, name, **request)
    core.now += 2.0
    (decode,) = core.prefill_done(name)
    core.now += took_s
    core.first_token(name, 2)
    core.finish(name, 2)
    return decode


def test_the_time_that_decode_legs_take_is_expected_of_those_that_come(fleet):
    core = fleet("p1", "d1", min_prefill_leg_tokens=512)
    decode = fetches(core, "first", 0.5)
    assert decode.estimated_ttft_s - decode.queued_s == pytest.approx(2.025, abs=0.002)
    for number in range(100):
        decode = fetches(core, f"r{number}", 0.5)
    assert decode.estimated_ttft_s - decode.queued_s == pytest.approx(2.5, abs=0.1)


def test_a_leg_that_had_others_beside_it_says_nothing_of_that_time(fleet):
    core = fleet("p1", "d1", min_prefill_leg_tokens=512)
    pace = core.view("d1").service.transfers
    before = pace.seconds(2048)
    for number in range(20):
        arrive(core, f"r{number}")
        core.now += 2.0
        core.prefill_done(f"r{number}")
        core.arrive(f"beside-{number}", 300)
        core.now += 0.5
        core.first_token(f"r{number}", 2)
        core.first_token(f"beside-{number}")
        core.finish(f"r{number}", 2)
        core.finish(f"beside-{number}")
    assert pace.seconds(2048) == before


def test_an_answer_that_is_not_streamed_says_nothing_of_it(fleet):
    core = fleet("p1", "d1", min_prefill_leg_tokens=512)
    pace = core.view("d1").service.transfers
    before = pace.seconds(2048)
    arrive(core, "a", streams=False)
    core.prefill_done("a")
    core.now += 3.0
    core.finish("a", 2)
    assert pace.seconds(2048) == before


# What waits to be fetched takes memory.


def test_a_prompt_that_waits_to_be_fetched_takes_memory_where_it_was_computed(fleet):
    core = fleet("p1", "d1", kv_tokens=4500, min_prefill_leg_tokens=512)
    for name in "abc":
        arrive(core, name, max_output_tokens=10)
    core.prefill_done("a")
    assert legs(core.prefill_done("b"))[0] == (Leg.DECODE, "d1")
    assert core.books("p1")[:2] == (1, 0), "there is no room for the third"
    assert core.view("p1").own_load(core.now).kv_tokens == 2 * 2048
    core.core.check()
    assert legs(core.first_token("a", 2)) == [(Leg.PREFILL, "p1")]
    core.core.check()


@pytest.mark.parametrize("ends", ["cancelled", "failed", "timed out"])
def test_memory_comes_back_at_once_where_nobody_fetches_the_prompt(fleet, ends):
    core = fleet("p1", "d1", kv_tokens=4500, min_prefill_leg_tokens=512, max_attempts=1)
    arrive(core, "a", max_output_tokens=10, timeout_s=0.5)
    for name in "bc":
        arrive(core, name, max_output_tokens=10)
    for name in "ab":
        core.prefill_done(name)
    commands = {
        "cancelled": lambda: core.cancel("a"),
        "failed": lambda: core.fail("a", 2),
        "timed out": lambda: core.tick(0.6),
    }[ends]()
    assert (Leg.PREFILL, "p1") in legs(commands)
    core.core.check()


def test_a_prompt_that_should_be_fetched_by_now_takes_no_memory_but_its_instance_is_not_stopped(fleet):
    """An answer that is not streamed shows no first token, which would tell."""
    core = fleet("p1", "d1", kv_tokens=4500, min_prefill_leg_tokens=512)
    for name in "abc":
        arrive(core, name, max_output_tokens=10, streams=False)
    for name in "ab":
        core.prefill_done(name)
    assert core.books("p1")[:2] == (1, 0)
    assert (Leg.PREFILL, "p1") in legs(core.tick(0.1))
    load = core.view("p1").own_load(core.now)
    assert (load.running, load.kv_tokens) == (3, 2049)
    core.core.check()
    for name in "ab":
        core.first_token(name, 2)
        core.finish(name, 2)
    assert core.view("p1").own_load(core.now).running == 1
    core.core.check()
