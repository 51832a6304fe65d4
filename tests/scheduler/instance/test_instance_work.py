"""What a prompt costs an instance, and how long its answer is taken to be. A token is a millisecond."""

import pytest

from dualmap.scheduler import InstanceCapacity, Request
from dualmap.scheduler.answer_lengths import FIRST_GUESS_TOKENS, MEMORY, AnswerLengths
from dualmap.scheduler.attempt import AttemptState
from tests.scheduler.made import view_of


@pytest.mark.parametrize(
    ("prompt_tokens", "cached", "attention_tokens", "work"),
    [
        (1000, 0, 0, 1000),
        (1000, 900, 0, 100),
        (0, 0, 4000, 0),
        (1, 0, 4000, 1),
        # Each of n tokens attends to those before it, on average (prompt + cached) / 2: in 4000ths of a token.
        (4000, 0, 4000, 4000 + 2000),
        (8000, 0, 4000, 8000 + 8000),
        (8000, 4000, 4000, 4000 + 6000),
        (8000, 7999, 4000, 1 + 1),
        (8000, 0, 8000, 8000 + 4000),
    ],
)
def test_the_attention_of_a_long_prompt_is_work_too(prompt_tokens, cached, attention_tokens, work):
    assert view_of(attention_tokens=attention_tokens).service.work_tokens(prompt_tokens, cached) == work


def test_computing_a_prompt_in_two_parts_is_as_much_work_as_at_once():
    view = view_of(attention_tokens=5000)
    for cut in (0, 1000, 5000, 9000):
        assert view.service.work_tokens(cut, 0) + view.service.work_tokens(10_000, cut) == pytest.approx(20_000, abs=1)


def test_estimates_and_books_are_of_work_and_cached_tokens_of_tokens(script, empty_books):
    core = script("a", capacity={"attention_tokens": 4000})
    core.arrive("r0", 4000, blocks=core.prompt("a", blocks=1))
    assert core.view("a").booked_prefill_tokens == 6000
    assert core.attempt("r0").estimated_ttft_s == pytest.approx(6.0)
    core.arrive("r1", 8000, blocks=core.prompt("a", blocks=1), ttft_slo_s=1000.0)
    attempt = core.attempt("r1")
    assert attempt.state is AttemptState.WAITING
    assert (attempt.cached_tokens, attempt.uncached_tokens) == (512, 7488)
    assert attempt.work_tokens == 7488 + 7488 * 8512 // 8000
    assert core.view("a").waiting_tokens == attempt.work_tokens
    core.finish("r0")
    core.finish("r1")
    assert core.books("a") == empty_books


def test_the_speed_is_learned_of_work_not_of_tokens(script):
    core = script("a", capacity={"attention_tokens": 4000})
    for i in range(20):
        core.arrive(f"r{i}", 8000)
        core.now += 16.0
        core.first_token(f"r{i}")
        core.finish(f"r{i}")
    assert core.view("a").seconds_per_token == pytest.approx(0.001)


@pytest.mark.parametrize(("cache_tokens", "held"), [(0, 4), (1024, 2), (10_240, 20)])
def test_an_instance_may_keep_more_prefixes_than_its_pool_holds(cache_tokens: int, held: int):
    view = view_of(kv_tokens=2048, cache_tokens=cache_tokens)
    view.cache.use(tuple(range(30)))
    assert len(view.cache) == held


def test_by_default_attention_is_in_the_speed_and_the_pool_is_all_there_is():
    assert (InstanceCapacity().attention_tokens, InstanceCapacity().cache_tokens) == (0, 0)


# Answers.


@pytest.mark.parametrize(("allowed", "expected"), [(0, FIRST_GUESS_TOKENS), (100, 100), (100_000, FIRST_GUESS_TOKENS)])
def test_an_answer_is_expected_to_be_as_long_as_others_or_as_allowed(allowed: int, expected: float):
    assert AnswerLengths().expected(Request("r", (), 10, max_output_tokens=allowed)) == expected


def test_the_last_answers_make_the_mean():
    answers = AnswerLengths()
    answers.observe(356)
    assert answers.mean_tokens == pytest.approx(256 + MEMORY * 100)
    for _ in range(400):
        answers.observe(20)
    assert answers.mean_tokens == pytest.approx(20, abs=1)


def test_errors_are_no_answers():
    answers = AnswerLengths()
    answers.observe(0)
    assert answers.mean_tokens == FIRST_GUESS_TOKENS
