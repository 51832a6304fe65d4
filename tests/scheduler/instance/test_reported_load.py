"""What instances say of themselves corrects the books: load of others, silence, lengths and hits as they were."""

import pytest

from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.events import GatewayLoads, InstanceLoad, LoadReported, RequestFinished
from dualmap.scheduler.instance.reported_load import REPORTS_COMPARED, STALE_AFTER_S


def report(core, running=0, waiting=0, kv_used=0.0, times=REPORTS_COMPARED, age_s=0.0):
    commands = []
    for _ in range(times):
        commands = core.send(LoadReported("a", running, waiting, kv_used=kv_used, age_s=age_s))
    return commands


@pytest.mark.parametrize(("running", "starts"), [(2, True), (3, True), (4, False)])
def test_requests_of_others_take_places(script, running: int, starts: bool):
    core = script("a", capacity={"max_running": 4})
    core.arrive("own", 10)
    report(core, running=running)  # one of them is ours
    core.arrive("r", 10)
    assert (core.attempt("r").state is AttemptState.PREFILLING) is starts


@pytest.mark.parametrize(("kv_used", "starts"), [(0.5, True), (0.75, False)])
def test_the_kv_cache_that_others_hold_is_not_free(script, kv_used: float, starts: bool):
    core = script("a", capacity={"kv_tokens": 2000})
    core.arrive("own", 500, max_output_tokens=100)
    core.first_token("own")
    report(core, running=2, kv_used=kv_used)
    core.arrive("r", 500, max_output_tokens=100)
    assert (core.attempt("r").state is AttemptState.PREFILLING) is starts


def test_prompts_of_others_that_wait_in_the_instance_are_ahead_of_a_request(script):
    core = script("a")
    core.arrive("own", 1000)
    core.first_token("own")
    before_s = core.view("a").backlog_s
    report(core, running=4, waiting=3)
    mean_s = core.view("a").service.mean_work_tokens / 1000.0
    assert mean_s > 0
    assert core.view("a").backlog_s - before_s == pytest.approx(3 * mean_s, abs=0.002)


def test_what_is_booked_by_us_and_other_gateways_is_not_load_of_others(script):
    core = script("a", capacity={"max_running": 4})
    core.send(GatewayLoads((InstanceLoad("a", 2, 0, waiting_tokens=0, kv_tokens=1000),)))
    core.arrive("own", 10)
    report(core, running=3, waiting=0, kv_used=0.001)
    assert core.view("a").reported.foreign.requests == 0
    assert core.view("a").reported.foreign.kv_tokens == 0


def test_one_report_that_differs_from_the_books_is_taken_for_a_late_one(script):
    core = script("a", capacity={"max_running": 2})
    core.arrive("own", 10)
    report(core, running=1)
    report(core, running=5, times=REPORTS_COMPARED - 1)
    assert core.view("a").reported.foreign.requests == 0
    report(core, running=5, times=1)
    assert core.view("a").reported.foreign.requests == 4


def test_load_of_others_that_has_gone_lets_the_next_request_start(script):
    core = script("a", capacity={"max_running": 2})
    core.arrive("own", 10)
    report(core, running=3)
    core.arrive("r", 10)
    assert core.attempt("r").state is AttemptState.WAITING
    assert [command.request_id for command in report(core, running=1, times=1)] == ["r"]


class TestSilence:
    def silent(self, script, reports: int = 1):
        core = script("a")
        report(core, times=reports)
        core.arrive("own", 10)
        core.tick(STALE_AFTER_S + 0.1)
        return core

    def test_an_instance_that_has_fallen_silent_gets_one_request_at_a_time(self, script):
        core = self.silent(script)
        core.arrive("r", 10)
        assert core.attempt("r").state is AttemptState.WAITING
        assert [command.request_id for command in core.finish("own")] == ["r"]

    def test_one_that_never_reported_is_not_silent(self, script):
        core = self.silent(script, reports=0)
        core.arrive("r", 10)
        assert core.attempt("r").state is AttemptState.PREFILLING

    def test_the_end_of_an_answer_is_as_good_as_a_report(self, script):
        core = self.silent(script)
        core.finish("own")
        core.tick(1.1)
        core.arrive("next", 10)
        core.arrive("r", 10)
        assert core.attempt("r").state is AttemptState.PREFILLING

    def test_an_answer_is_as_good_as_a_report(self, script):
        core = self.silent(script)
        core.first_token("own")
        core.tick(1.1)
        core.arrive("r", 10)
        assert core.attempt("r").state is AttemptState.PREFILLING

    def test_a_report_that_is_old_when_it_comes_does_not_end_it(self, script):
        core = self.silent(script)
        report(core, running=1, times=1, age_s=STALE_AFTER_S + 1)
        core.tick(1.1)
        assert core.view("a").reported.stale

    @pytest.mark.parametrize(("age_s", "taken"), [(0.0, True), (STALE_AFTER_S + 1, False)])
    def test_it_takes_nothing_that_waits_elsewhere(self, script, age_s: float, taken: bool):
        core = script("b")
        for i in range(4):
            core.arrive(f"r{i}", 3000)
        core.join("a")
        assert bool(report(core, times=1, age_s=age_s)) is taken


class TestUsage:
    def run(self, core, request_id: str, blocks, prompt_tokens: int, cached_tokens: int, true_tokens: int) -> None:
        core.arrive(request_id, prompt_tokens, blocks=blocks)
        core.now += 1.0
        core.first_token(request_id)
        core.send(RequestFinished(request_id, 1, 10, cached_tokens=cached_tokens, prompt_tokens=true_tokens))

    def test_the_pace_is_that_of_the_tokens_that_were_really_computed(self, script):
        """A second each: 4,000 tokens were thought to be computed, 2,000 were."""
        told, untold = script("a"), script("a")
        for i in range(300):
            self.run(told, f"r{i}", (), 4000, 0, 2000)
            self.run(untold, f"r{i}", (), 4000, 0, 4000)
        assert untold.view("a").seconds_per_token == pytest.approx(1 / 4000, rel=0.05)
        assert told.view("a").seconds_per_token == pytest.approx(1 / 2000, rel=0.05)

    def test_a_cache_that_has_less_than_believed_is_taken_to_be_smaller_and_to_grow_again(self, script):
        core = script("a", capacity={"kv_tokens": 40 * 512})
        prompts = [tuple(range(100 * i, 100 * i + 20)) for i in range(2)]
        for i in range(2):
            self.run(core, f"warm{i}", prompts[i], 20 * 512, 0, 20 * 512)
        assert len(core.view("a").cache) == 40
        for i in range(60):
            self.run(core, f"miss{i}", prompts[i % 2], 20 * 512, 0, 20 * 512)
        assert 10 <= len(core.view("a").cache) <= 20
        for i in range(1000):
            self.run(core, f"hit{i}", prompts[i % 2], 20 * 512, 20 * 512 - 1, 20 * 512)
        assert len(core.view("a").cache) == 40

    def test_an_answer_without_usage_changes_nothing(self, script):
        core = script("a")
        core.arrive("r", 1000)
        core.first_token("r")
        core.finish("r")
        assert core.view("a").service.usage_at is None


def test_one_that_turns_out_to_be_several_is_not_silent_and_keeps_nothing(script):
    core = script("a")
    prompt = core.prompt("a")
    core.arrive("first", 100, blocks=prompt)
    core.first_token("first")
    core.finish("first")
    report(core)
    core.join("a", cache_tokens=1)
    view = core.view("a")
    assert len(view.cache) <= 1
    core.tick(STALE_AFTER_S + 1)
    assert (view.reported.reported_at, view.reported.stale) == (None, False)
    assert view.incarnation == 1
