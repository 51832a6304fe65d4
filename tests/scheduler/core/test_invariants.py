"""Random events, and what must hold after each of them (checked_core.py)."""

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.commands import RejectReason
from dualmap.scheduler.config import POLICY_NAMES
from dualmap.scheduler.events import (
    FailureCause,
    InstanceLoad,
)
from tests.scheduler.core.any_fleet import CAPACITIES, PROMPTS, TENANTS, Fleet
from tests.scheduler.core.checked_core import IDS, MAX_OUTPUT_TOKENS, OFFERS

TIGHT = SchedulerConfig(
    max_waiting=4, max_in_flight=30, queue_timeout_s=20.0, max_moves=4, ttft_slo_s=2.0, recompute_price_busy=2.0
)
PLAIN = replace(TIGHT, find_holders=False, escape=False, deadline_order=False, taking=False)
HOLDING = replace(TIGHT, cold_start_timeout_s=10.0)
CONFIGS = (
    TIGHT,
    SchedulerConfig(),
    replace(TIGHT, dual_mapping=False),
    replace(TIGHT, adaptive_key=False, key_blocks=2),
    replace(TIGHT, slo_aware=False),
    replace(TIGHT, gateway_queue=False),
    replace(TIGHT, rebalancing=False, max_attempts=1),
    replace(TIGHT, find_holders=False),
    replace(TIGHT, escape=False),
    replace(TIGHT, deadline_order=False),
    replace(TIGHT, taking=False, release_window_s=1.3),
    replace(TIGHT, patience_slos=0.25, length_handicap=0.0),
    PLAIN,
    HOLDING,
    replace(HOLDING, policy="least_loaded", max_in_flight=10),
    *(replace(TIGHT, policy=policy) for policy in POLICY_NAMES if policy != "dualmap"),
    replace(TIGHT, policy="least_loaded", max_attempts=2, suspect_s=0.0),
)
FEW = (TIGHT, SchedulerConfig(), PLAIN, HOLDING, CONFIGS[-1])


INSTANCE_IDS = st.sampled_from(IDS)
INDEX = st.integers(0, 40)


class AnyEvents(RuleBasedStateMachine):
    @initialize(config=st.sampled_from(CONFIGS), members=st.integers(0, 3))
    def start(self, config: SchedulerConfig, members: int) -> None:
        self.fleet = Fleet(config)
        for instance_id, capacity in zip(IDS[:members], CAPACITIES, strict=False):
            self.fleet.join(instance_id, 1, capacity)

    @rule(instance_id=INSTANCE_IDS, step=st.sampled_from((1, 1, 1, 0, -1)), capacity=st.sampled_from(CAPACITIES))
    def join(self, instance_id, step, capacity):
        self.fleet.join(instance_id, step, capacity)

    @rule(instance_id=INSTANCE_IDS, models=st.sampled_from(OFFERS))
    def offer(self, instance_id, models):
        self.fleet.offer(instance_id, models)

    @rule(instance_id=INSTANCE_IDS)
    def drain(self, instance_id):
        self.fleet.drain(instance_id)

    @rule(instance_id=INSTANCE_IDS, step=st.sampled_from((0, 0, 0, -1, 1)))
    def lose(self, instance_id, step):
        self.fleet.lose(instance_id, step)

    @rule(
        many=st.integers(1, 6),
        prompt=st.integers(0, len(PROMPTS) - 1),
        prompt_tokens=st.sampled_from((0, 1, 300, 1000, 4000)),
        priority=st.sampled_from((0, 0, 0, -1, 3)),
        streams=st.booleans(),
        slo_s=st.sampled_from((None, None, 0.5, 60.0)),
        tenant=st.sampled_from(TENANTS),
        timeout_s=st.sampled_from((None, None, 0.05, 2.0)),
    )
    def arrive(self, many, **request):
        for _ in range(many):
            self.fleet.arrive(**request)

    @rule(slo_s=st.sampled_from((0.5, 2.0)), max_waiting=st.sampled_from((4, 8)))
    def change_settings(self, slo_s, max_waiting):
        self.fleet.change_settings(slo_s, max_waiting)

    @rule(index=INDEX)
    def arrive_again(self, index):
        self.fleet.arrive_again(index)

    @rule(index=INDEX)
    def first_token(self, index):
        self.fleet.first_token(index)

    @rule(index=INDEX, output_tokens=st.integers(0, MAX_OUTPUT_TOKENS))
    def finish(self, index, output_tokens):
        self.fleet.finish(index, output_tokens)

    @rule(index=INDEX, cause=st.sampled_from(FailureCause), tokens_sent=st.sampled_from((0, 0, 0, 1)))
    def fail(self, index, cause, tokens_sent):
        self.fleet.fail(index, cause, tokens_sent)

    @rule(index=INDEX, sent_tokens=st.sampled_from((0, 1, 200)))
    def go_on(self, index, sent_tokens):
        self.fleet.go_on(index, sent_tokens)

    @rule(index=INDEX)
    def cancel(self, index):
        self.fleet.cancel(index)

    @rule(index=INDEX, instance_id=INSTANCE_IDS)
    def serve_elsewhere(self, index, instance_id):
        self.fleet.serve_elsewhere(index, instance_id)

    @rule(kind=st.integers(0, 4), index=INDEX, off=st.sampled_from((0, -1, 1)))
    def tell_late(self, kind, index, off):
        self.fleet.tell_late(kind, index, off)

    @rule(instance_id=INSTANCE_IDS, kind=st.integers(0, 2), prompt=st.integers(0, len(PROMPTS) - 1))
    def report_cache(self, instance_id, kind, prompt):
        self.fleet.report_cache(instance_id, kind, prompt)

    @rule(
        running=st.lists(st.integers(0, 9), max_size=5),
        tokens=st.sampled_from((0, 500, 6000)),
        instance_id=INSTANCE_IDS,
        prompt=st.integers(0, len(PROMPTS) - 1),
    )
    def hear_of_others(self, running, tokens, instance_id, prompt):
        loads = (
            InstanceLoad(
                i,
                n,
                tokens,
                waiting_tokens=tokens // 2,
                kv_tokens=n * 300,
                waiting=n // 4,
                seconds_per_token=0.0,
                saved_tokens=0,
                head_age_s=0.5 if n > 6 else None,
            )
            for i, n in zip(IDS, running, strict=False)
            if n
        )
        self.fleet.hear_of_others(tuple(loads), instance_id, prompt)

    @rule(
        instance_id=INSTANCE_IDS,
        running=st.integers(0, 9),
        kv_used=st.sampled_from((0.0, 0.3, 1.0)),
        age_s=st.sampled_from((0.0, 9.0)),
    )
    def report_load(self, instance_id, running, kv_used, age_s):
        self.fleet.report_load(instance_id, running, kv_used, age_s)

    @rule()
    def plan(self):
        self.fleet.plan()

    @rule()
    def propose(self):
        self.fleet.propose()

    @rule(index=INDEX, here=INSTANCE_IDS, there=INSTANCE_IDS)
    def propose_garbage(self, index, here, there):
        self.fleet.propose_garbage(index, here, there)

    @rule(after_s=st.sampled_from((0.0, 0.1, 0.5, 3.0, 25.0)))
    def tick(self, after_s):
        self.fleet.tick(after_s)

    @invariant()
    def no_request_is_in_two_states(self):
        if hasattr(self, "fleet"):
            assert not self.fleet.requests.keys() & self.fleet.ended.keys()

    def teardown(self):
        if hasattr(self, "fleet"):
            self.fleet.end_all()


class ManyEvents(AnyEvents):
    """The same, searched for longer."""


AnyEvents.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
ManyEvents.TestCase.settings = settings(AnyEvents.TestCase.settings, max_examples=400)
test_no_event_breaks_the_books = AnyEvents.TestCase
test_no_event_breaks_the_books_in_many_examples = pytest.mark.release(ManyEvents.TestCase)


def random_event(fleet: Fleet, rng: random.Random) -> None:
    """One event, as they would come to a busy fleet whose instances come and go."""
    index = rng.randrange(1000)
    kind = rng.choices(range(14), (30, 22, 22, 4, 3, 5, 2, 3, 6, 2, 9, 2, 2, 3))[0]
    if kind == 0:
        slo_s = rng.choice((None, None, 1.0, 60.0))
        prompt = 0 if rng.random() < 0.1 else 1 + rng.randrange(len(PROMPTS) - 1)
        fleet.arrive(
            prompt,
            rng.choice((1, 300, 1000, 4000)),
            rng.choice((0, 0, -1, 2)),
            rng.random() < 0.7,
            slo_s,
            rng.choice(TENANTS),
            rng.choice((None, None, None, 0.5, 3.0)),
        )
    elif kind == 1:
        fleet.first_token(index)
    elif kind == 2:
        fleet.finish(index, rng.randrange(MAX_OUTPUT_TOKENS))
    elif kind == 3:
        fleet.fail(index, rng.choice(list(FailureCause)), int(rng.random() < 0.2))
    elif kind == 4:
        fleet.cancel(index)
    elif kind == 5:
        fleet.tell_late(index, index // 4, rng.choice((0, -1, 1)))
    elif kind == 6:
        fleet.report_cache(rng.choice(IDS), index, rng.randrange(len(PROMPTS)))
    elif kind == 7:
        instance_id = rng.choice(IDS)
        if instance_id not in fleet.members or rng.random() < 0.3:
            fleet.join(instance_id, rng.choice((1, 1, 0)), rng.choice(CAPACITIES))
        elif rng.random() < 0.5:
            fleet.drain(instance_id)
        else:
            fleet.lose(instance_id, rng.choice((0, 0, 1)))
    elif kind == 8:
        fleet.plan()
        if rng.random() < 0.8:
            fleet.propose()
    elif kind == 9:
        fleet.propose_garbage(index, rng.choice(IDS), rng.choice(IDS))
    elif kind == 11:
        loads = (
            InstanceLoad(i, 1, rng.randrange(1000), waiting_tokens=rng.randrange(1000), kv_tokens=500)
            for i in IDS
            if rng.random() < 0.3
        )
        fleet.hear_of_others(tuple(loads), rng.choice(IDS), rng.randrange(len(PROMPTS)))
    elif kind == 12:
        fleet.report_load(rng.choice(IDS), rng.randrange(6), rng.random(), rng.choice((0.0, 0.0, 9.0)))
    elif kind == 13:
        fleet.go_on(index, rng.choice((0, 1, 200)))
    else:
        fleet.tick(rng.choice((0.05, 0.1, 0.3, 1.0)))


@pytest.mark.parametrize("mixed", [False, True], ids=["alike", "mixed"])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(c, marks=() if c in FEW else pytest.mark.release, id=f"{c.policy}-{i}")
        for i, c in enumerate(CONFIGS)
    ],
)
def test_the_books_stay_right_over_a_long_run(config: SchedulerConfig, mixed: bool):
    rng = random.Random(19)
    fleet = Fleet(config)
    for instance_id, models in zip(IDS, OFFERS, strict=True):
        fleet.offer(instance_id, models if mixed else ())
    for instance_id, capacity in zip(IDS[:3], CAPACITIES, strict=True):
        fleet.join(instance_id, 1, capacity)
    for number in range(4000):
        if mixed and number % 40 == 0:
            fleet.offer(rng.choice(IDS), rng.choice(OFFERS))
        random_event(fleet, rng)
    assert bool(fleet.held) is bool(config.cold_start_timeout_s)
    if mixed:
        fleet.end_all()
        return
    held = fleet.core.policy.holds_requests
    assert held is (config.policy.startswith("dualmap") and config.gateway_queue)
    assert (fleet.core.stats.moves_applied > 0) is (held and config.rebalancing)
    assert (fleet.taken > 0) is (held and fleet.core.config.taking)
    assert fleet.core.stats.retries > 0 or config.max_attempts == 1
    assert fleet.core.stats.late_events > 50
    assert fleet.continued > 20
    holds = bool(config.cold_start_timeout_s)  # what no instance can run waits, whatever the policy
    assert (fleet.shed_waiting > 0) is ((held and config.max_waiting < 10) or (holds and config.max_in_flight <= 10))
    assert fleet.timed_out[RejectReason.FIRST_TOKEN_TIMEOUT] > 0
    assert (fleet.timed_out[RejectReason.QUEUE_TIMEOUT] > 0) is (held or holds)
    fleet.end_all()
