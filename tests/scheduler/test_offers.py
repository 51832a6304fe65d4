"""Instances that serve different models, or take contexts of different lengths (scheduler/offers.py). A token is a
millisecond."""

from collections import Counter

import pytest

from dualmap.scheduler import Request
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.commands import Dispatch, Reject, RejectReason
from dualmap.scheduler.dual_ring import DualRing
from dualmap.scheduler.events import FailureCause, ServedModel
from dualmap.scheduler.offers import Offer, Offers
from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.role import Leg, Role

A, B = ServedModel("a"), ServedModel("b")
SHORT, LONG = ServedModel("chat", 2000), ServedModel("chat", 8000)


def offers_of(*models: tuple[ServedModel, ...]) -> Offers:
    """Of instances 0, 1, ..."""
    offers = Offers()
    for number, served in enumerate(models):
        offers.put(str(number), 1 << number, Offer(served))
    return offers


def mixed(script, a: int, b: int, **config):
    """So many instances of model a, named a0, a1, ..., and of model b."""
    core = script(**config)
    for i in range(max(a, b)):
        for model, count in ((A, a), (B, b)):
            if i < count:
                core.join(f"{model.name}{i}", models=(model,))
    return core


@pytest.mark.parametrize(
    ("model", "tokens", "able"),
    [
        ("chat", 0, "012"),
        ("chat", 2000, "012"),
        ("chat", 2001, "12"),
        ("chat", 8001, ""),
        ("code", 1_000_000, "23"),
        ("", 0, "0123"),
        ("", 2001, "123"),
        ("poems", 0, ""),
    ],
)
def test_who_can_run_a_request(model, tokens, able):
    code = ServedModel("code")
    offers = offers_of((SHORT,), (LONG,), (LONG, code), (code,))
    fleet = offers.fleet(Request("r", (), 10, model=model, length_tokens=tokens))
    assert "".join(fleet.able) == able
    assert fleet.unable == set("0123") - set(able)
    assert fleet.bits == sum(1 << int(i) for i in able)


@pytest.mark.parametrize(("leg", "able"), [(Leg.WHOLE, "12"), (Leg.DECODE, "12"), (Leg.PREFILL, "02")])
@pytest.mark.parametrize("models", [(), (A,), (A, B)])
def test_who_can_run_a_leg(leg, able, models):
    offers = Offers()
    for number, role in enumerate((Role.PREFILL, Role.DECODE, Role.BOTH)):
        offers.put(str(number), 1 << number, Offer(models, (), role))
    fleet = offers.fleet(Request("r", (), 10, model="a", leg=leg))
    assert "".join(fleet.able) == able
    assert fleet.serving == 2
    assert fleet.name == offers.fleet(Request("q", (), 10, model="a", leg=leg)).name != ""
    assert not offers.alike
    assert not offers.all_take
    assert {i: set(offers.peers(i) or ()) for i in "012"} == {"0": {"0", "2"}, "1": {"1", "2"}, "2": {"0", "1", "2"}}


def test_roles_make_fleets_with_names_of_their_own():
    offers = Offers()
    for number, role in enumerate((Role.PREFILL, Role.DECODE)):
        offers.put(str(number), 1 << number, Offer((A, B), (), role))
    names = {leg: offers.fleet(Request("r", (), 10, model="b", leg=leg)).name for leg in Leg}
    assert names[Leg.WHOLE] == names[Leg.DECODE] != names[Leg.PREFILL]
    offers.remove("0")
    offers.put("1", 2, Offer((A, B)))
    assert offers.alike
    assert not offers.has_roles


def test_an_instance_that_has_not_told_may_serve_any_model():
    offers = offers_of((A,), ())
    assert offers.fleet(Request("r", (), 10, model="b")).able == ("1",)
    assert offers.fleet(Request("r", (), 10, model="a")).able == ("0", "1")


def test_all_names_of_a_model_are_of_one_fleet_and_what_all_serve_is_of_none():
    offers = offers_of((A, ServedModel("alias"), B), (A, ServedModel("alias"), B), (B,))
    fleets = [offers.fleet(Request("r", (), 10, model=model)) for model in ("a", "alias", "b")]
    assert [fleet.name for fleet in fleets] == ["a", "a", ""]
    assert offers.peers("2") is not None
    assert set(offers.peers("2")) == {"0", "1", "2"}


def test_where_all_offer_the_same_that_is_known_without_asking():
    assert offers_of((A, B), (A, B)).alike
    assert not offers_of((SHORT,), (LONG,)).alike
    assert offers_of((SHORT,), (SHORT,)).all_take == {"chat": 2000, "": 2000}
    assert offers_of((SHORT,), (LONG,)).all_take == {}


def test_each_models_requests_run_where_a_fleet_of_its_own_would_run_them(script):
    core, own = mixed(script, a=4, b=4), script("a0", "a1", "a2", "a3")
    for i in range(300):
        blocks = hash_trace_ids([i % 40, 1])
        for name in ("a", "b"):
            (dispatch,) = core.arrive(f"{name}{i}", 100, blocks=hash_trace_ids([name == "b", *blocks]), model=name)
            assert dispatch.instance_id.startswith(name)
            core.finish(f"{name}{i}")
        (alone,) = own.arrive(f"a{i}", 100, blocks=hash_trace_ids([False, *blocks]))
        own.finish(f"a{i}")
        assert core.core.stats.arrived == 2 * own.core.stats.arrived
        core.now, own.now = core.now + 1, own.now + 1
        assert core.core.books.ended[-2].instance_id == alone.instance_id


def test_a_hot_prompt_of_a_model_is_spread_evenly_over_its_instances(script):
    core = mixed(script, a=4, b=12)
    ran_on = Counter[str]()
    for i in range(400):
        for name in ("a", "b"):
            (dispatch,) = core.arrive(f"{name}{i}", 500, blocks=(7,), model=name)
            ran_on[dispatch.instance_id] += i >= 100
            core.first_token(f"{name}{i}")
            core.finish(f"{name}{i}")
        core.now += 0.1
    assert {i for i in ran_on if i.startswith("a")} == {"a0", "a1", "a2", "a3"}
    assert all(60 <= ran_on[f"a{i}"] <= 90 for i in range(4))
    assert all(15 <= ran_on[f"b{i}"] <= 35 for i in range(12))


def test_who_has_nothing_to_do_takes_what_waits_for_its_model_behind_hotter_instances_of_another(script):
    core = mixed(script, a=6, b=2, recompute_price_idle=0.0, recompute_price_busy=0.0)
    for i in range(60):
        core.arrive(f"a{i}", 4000, model="a", ttft_slo_s=1000.0)
    for i in range(2):  # its hottest source is behind six of model a
        core.arrive(f"first{i}", 1000, model="b", ttft_slo_s=1000.0)
    waiting = [core.arrive(f"b{i}", 1000, model="b", ttft_slo_s=1000.0) for i in range(4)]
    assert waiting == [[]] * 4
    running = {core.attempt(f"first{i}").instance_id: f"first{i}" for i in range(2)}
    taken = [command for i in range(6) for command in _work_off(core, "b0", running)]
    assert {command.instance_id for command in taken} == {"b0"}
    assert core.core.stats.requests_taken > 0


def _work_off(core, instance_id: str, running: dict[str, str]) -> list[Dispatch]:
    """What starts where the one that runs there has its first token."""
    if instance_id not in running:
        return []
    core.now += 1.0
    commands = core.first_token(running.pop(instance_id))
    running |= {command.instance_id: command.request_id for command in commands}
    return commands


def test_a_plan_names_no_instance_of_another_model(script):
    core = mixed(script, a=2, b=2, ttft_slo_s=1.0, recompute_price_idle=0.0, recompute_price_busy=0.0, taking=False)
    for name in ("a", "b"):
        for i in range(12):
            blocks = hash_trace_ids([name == "b", 5, i])
            core.arrive(f"{name}{i}", 2000, blocks=blocks, model=name)
    for view in core.core.instances.values():
        if view.waiting_count > 1:
            source = view
    snapshot = core.core.snapshot(core.now)
    assert snapshot is not None
    assert snapshot.prices
    for waiting in snapshot.waiting:
        assert {i[0] for i in waiting.work_tokens} == {waiting.request_id[0]}
    assert source.waiting_count
    assert all(move.to_instance_id[0] == move.request_id[0] for move in plan_rebalance(snapshot, core.core.config))


def test_what_waits_for_a_model_that_its_instance_serves_no_more_goes_elsewhere(script):
    core = mixed(script, a=2, b=1)
    for i in range(6):
        core.arrive(f"r{i}", 3000, model="a", ttft_slo_s=1000.0)
    waiting = [
        r for r, attempt in core.core.attempts.items() if attempt.instance_id == "a0" and not attempt.dispatched_at
    ]
    assert waiting
    core.join("a0", models=(B,))
    assert all(core.attempt(request_id).instance_id == "a1" for request_id in waiting)
    assert core.view("a0").waiting_count == 0


def test_what_waits_for_a_model_that_nobody_serves_any_more_is_rejected(script):
    core = mixed(script, a=1, b=1)
    for i in range(3):
        core.arrive(f"r{i}", 3000, model="a", ttft_slo_s=1000.0)
    rejected = core.join("a0", models=(B,))
    assert [(type(c), c.request_id, c.reason) for c in rejected] == [
        (Reject, f"r{i}", RejectReason.NO_INSTANCE) for i in (1, 2)
    ]
    core.core.check()


def test_an_instance_that_begins_to_serve_a_model_takes_what_waits_for_it(script):
    core = mixed(script, a=1, b=1)
    for i in range(3):
        core.arrive(f"r{i}", 3000, model="a", ttft_slo_s=1000.0)
    (dispatch,) = core.join("b0", models=(A, B))
    assert (dispatch.request_id, dispatch.instance_id) == ("r2", "b0")


def test_a_draining_instance_keeps_what_is_for_its_model_alone(script):
    core = mixed(script, a=1, b=1)
    for i in range(2):
        core.arrive(f"r{i}", 3000, model="a", ttft_slo_s=1000.0)
    assert core.drain("a0") == []
    (dispatch,) = core.first_token("r0")
    assert (dispatch.request_id, dispatch.instance_id) == ("r1", "a0")


def test_what_is_too_long_for_an_instance_runs_once_more_where_longer_ones_do(script):
    core = script()
    core.join("short", models=(SHORT,))
    core.join("long", models=(LONG,))
    core.join("silent", models=(ServedModel("other", 100_000),))
    blocks = next(b for b in (hash_trace_ids([i, 1]) for i in range(99)) if _first(b) == "short")
    (dispatch,) = core.arrive("r", 1500, blocks=blocks, model="chat", length_tokens=1500)
    assert (dispatch.instance_id, dispatch.longer) == ("short", True)
    (again,) = core.fail("r", cause=FailureCause.TOO_LONG)
    assert (again.instance_id, again.attempt, again.longer) == ("long", 2, False)
    (rejected,) = core.fail("r", attempt=2, cause=FailureCause.TOO_LONG)
    assert rejected.reason is RejectReason.ATTEMPTS_EXHAUSTED


def _first(blocks: tuple[int, ...]) -> str:
    rings = DualRing(128)
    for instance_id in ("short", "long"):
        rings.add(instance_id)
    return rings.candidates(blocks[0])[0]


def test_how_fast_an_instance_is_says_nothing_of_those_with_another_model(script):
    core = mixed(script, a=1, b=1)
    for i in range(40):
        core.arrive(f"r{i}", 4000, model="a")
        core.now += 16.0
        core.first_token(f"r{i}")
        core.finish(f"r{i}")
    assert core.view("a0").seconds_per_token > 0.002
    core.join("a1", models=(A,))
    core.join("b1", models=(B,))
    assert core.view("a1").seconds_per_token > 0.0015
    assert core.view("b1").seconds_per_token == pytest.approx(0.001)
