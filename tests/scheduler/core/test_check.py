"""Scheduler.check: a book that contradicts another one is named."""

import pytest

from dualmap.scheduler.attempt import AttemptState


@pytest.fixture
def busy(script):
    """On a one runs and one waits; b has run one and is left alone."""
    core = script("a", "b")
    core.arrive("runs", 3000, blocks=core.prompt("a", "b"), only=("a",))
    core.arrive("waits", 2000, blocks=core.prompt("a", "b"), only=("a",), ttft_slo_s=100.0)
    core.arrive("unseen", 1000, streams=False, only=("b",))
    assert core.attempt("waits").state is AttemptState.WAITING
    core.core.check()
    return core


def more_waits(core) -> None:
    core.view("a").booked.waiting_tokens += 1


def more_is_prefilled(core) -> None:
    core.view("a").booked.prefill_tokens += 1


def more_context_is_read(core) -> None:
    core.view("a").booked.context_tokens += 1


def more_kv_is_taken(core) -> None:
    core.view("a").booked.kv.tokens += 1


def a_tenant_has_more(core) -> None:
    core.view("a").booked.shares.take("other", 1)


def a_prompt_is_expected_twice(core) -> None:
    core.view("a").cache.expect(core.attempt("waits").request.blocks)


def a_prompt_is_shorter(core) -> None:
    core.attempt("runs").uncached_tokens -= 1


def a_request_is_forgotten(core) -> None:
    del core.core.attempts["runs"]


def an_instance_forgets_a_request(core) -> None:
    core.view("a").booked.release(core.attempt("runs"))


def a_request_is_at_two_instances(core) -> None:
    core.view("b").running["runs"] = core.attempt("runs")


def a_suspect_is_gone(core) -> None:
    core.core.books.suspects.add("c")


def more_wait_than_there_are(core) -> None:
    core.core.loads.waiting += 1


def a_load_has_changed_unseen(core) -> None:
    core.view("a").speed.seconds_per_token *= 2


def an_instance_has_no_load(core) -> None:
    core.core.loads.remove(core.view("b"))


def a_block_has_a_holder_more(core) -> None:
    core.core.holders.add(12345, core.view("b").bit)


def the_end_of_a_prefill_is_forgotten(core) -> None:
    core.core.books.assumed.clear()


def a_time_out_is_forgotten(core) -> None:
    core.core.books.time_outs.pop_due(1e9)


def nobody_counts_how_long_one_waits(core) -> None:
    core.attempt("waits").arrived_at += 1.0


def a_key_is_asked_for_more_often(core) -> None:
    core.core.policy.keys.depths[99] = 2


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (more_waits, "instance 'a': waiting_tokens"),
        (more_is_prefilled, "instance 'a': prefill_tokens"),
        (more_context_is_read, "instance 'a': context_tokens"),
        (more_kv_is_taken, "instance 'a': KV cache booked"),
        (a_tenant_has_more, "instance 'a': running requests of tenants"),
        (a_prompt_is_expected_twice, "instance 'a': expected blocks"),
        (a_prompt_is_shorter, "instance 'a': tokens of 'runs'"),
        (a_request_is_forgotten, "an instance has what is not in flight"),
        (an_instance_forgets_a_request, "one is in flight without an instance, or at two"),
        (a_request_is_at_two_instances, "instance 'b': prefill_tokens"),
        (a_suspect_is_gone, "a suspect that is gone"),
        (more_wait_than_there_are, "how many wait"),
        (a_load_has_changed_unseen, "loads"),
        (an_instance_has_no_load, "instances that are ready"),
        (a_block_has_a_holder_more, "holders of blocks"),
        (the_end_of_a_prefill_is_forgotten, "the prefill of 'unseen' never ends"),
        (a_time_out_is_forgotten, "the time-out of 'waits' is forgotten"),
        (nobody_counts_how_long_one_waits, "instance 'a': patience of '' at priority 0"),
        (a_key_is_asked_for_more_often, "a depth of a key that nobody asks for"),
    ],
)
def test_what_contradicts_is_named(busy, wrong, named: str):
    wrong(busy)
    with pytest.raises(AssertionError) as raised:
        busy.core.check()
    assert str(raised.value).startswith(named)
