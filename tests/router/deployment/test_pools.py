"""Several models behind one gateway, each with a pool of instances, rings and books of its own."""

import pytest

from dualmap.router.cli.main import main
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.instance_specs import external_spec, is_scaled, own_specs, scaled_prefix, scaled_spec
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.scheduler import InstanceCapacity
from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.role import Role
from tests.conftest import await_that
from tests.deployment import deployed
from tests.router.conftest import CHAT, Conversation, answer_hello

CHAT_CARDS = ({"id": "chat"},)
CODER_CARDS = ({"id": "coder"}, {"id": "coder-sql", "parent": "coder"})
POOLS = ("", "code")


def apply_two_pools(f, coder_state: MemberState = MemberState.READY, **coder) -> None:
    chat = f.member(0, model_cards=CHAT_CARDS)
    f.apply(chat, f.member(1, coder_state, **{"pool": "code", "model_cards": CODER_CARDS, **coder}))


def ask(model: str) -> dict:
    return {**CHAT, "model": model}


async def test_a_request_goes_to_the_pool_that_serves_its_model(fleet):
    async with fleet(answer_hello, answer_hello, pools=POOLS) as f:
        apply_two_pools(f)
        client = await f.client()
        for model, instance_id in (("chat", "i0"), ("coder", "i1"), ("coder-sql", "i1"), ("chat", "i0")):
            answer = await client.post("/v1/chat/completions", ask(model))
            assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, instance_id)
        assert {i: len(pool.scheduler.instances) for i, pool in f.gateway.pools.items()} == {"": 1, "code": 1}
        f.check_books_are_empty()


async def test_models_of_all_pools_are_listed_and_others_are_not_found(fleet):
    async with fleet(answer_hello, answer_hello, pools=POOLS) as f:
        apply_two_pools(f)
        client = await f.client()
        listed = (await client.get("/v1/models")).json["data"]
        assert [card["id"] for card in listed] == ["chat", "coder", "coder-sql"]
        answer = await client.post("/v1/chat/completions", ask("nothing"))
        assert (answer.status, answer.error["param"]) == (404, "model")


async def test_a_pool_without_a_ready_instance_says_so_and_the_other_serves_on(fleet):
    async with fleet(answer_hello, answer_hello, pools=POOLS) as f:
        apply_two_pools(f)
        apply_two_pools(f, MemberState.LOST)
        client = await f.client()
        answer = await client.post("/v1/chat/completions", ask("coder"))
        assert (answer.status, answer.error["message"]) == (503, "No instance is ready to serve the request.")
        assert (await client.post("/v1/chat/completions", ask("chat"))).status == 200


async def test_a_model_is_not_called_unknown_before_every_pool_has_told_its_own(fleet):
    async with fleet(answer_hello, answer_hello, pools=POOLS) as f:
        apply_two_pools(f, MemberState.STARTING, model_cards=())
        client = await f.client()
        answer = await client.post("/v1/chat/completions", ask("coder"))
        assert (answer.status, answer.error["message"]) == (503, "No instance is known to serve the model yet.")


async def test_what_is_passed_through_goes_by_its_model_too(fleet):
    async with fleet(answer_hello, answer_hello, pools=POOLS) as f:
        apply_two_pools(f)
        client = await f.client()
        for body, instance_id in (
            ({"model": "coder", "input": "x"}, "i1"),
            ({"model": "chat", "input": "x"}, "i0"),
            ({"input": "x"}, "i0"),
            (b"--boundary, no JSON", "i0"),
        ):
            answer = await client.post("/v1/embeddings", body)
            assert (answer.status, answer.headers["x-dualmap-instance"]) == (200, instance_id)
        assert (await client.post("/v1/embeddings", {"model": "nothing"})).status == 404


async def test_an_instance_that_fails_is_replaced_by_one_of_its_own_pool_only(fleet):
    async def reset(conversation: Conversation) -> None:
        conversation.reset()

    async with fleet(answer_hello, reset, pools=POOLS) as f:
        apply_two_pools(f)
        client = await f.client()
        answer = await client.post("/v1/chat/completions", ask("coder"))
        assert answer.status in (502, 503)
        assert f.instances[0].received == []


async def test_what_gateways_tell_each_other_stays_within_a_pool(fleet):
    async with fleet(answer_hello, answer_hello, pools=POOLS) as f:
        apply_two_pools(f)
        gateway = f.gateway
        assert sorted(load.instance_id for load in gateway.own_loads()) == ["i0", "i1"]
        client = await f.client()
        await client.post("/v1/chat/completions", ask("coder"))
        assert {name: totals.arrived for name, totals in gateway.totals().items()} == {"": 0, "code": 1}
        assert [gateway.pool_name_of(i) for i in ("i0", "i1", "i2")] == ["", "code", None]


async def test_status_and_metrics_cover_all_pools(fleet):
    async with fleet(answer_hello, answer_hello, pools=POOLS) as f:
        apply_two_pools(f, model_cards=(*CODER_CARDS, *CHAT_CARDS))
        client = await f.client(f.admin_port)
        status = (await client.get("/admin/status", "authorization: Bearer secret\r\n")).json
        assert status["pools"] == ["", "code"]
        assert status["models_served_twice"] == ["chat"]
        assert {m["instance_id"]: (m["pool"], "running" in m) for m in status["members"]} == {
            "i0": ("", True),
            "i1": ("code", True),
        }
        metrics = (await client.get("/metrics")).body.decode()
        assert 'dualmap_instance_running_requests{instance="i0",pool=""}' in metrics
        assert 'dualmap_instance_running_requests{instance="i1",pool="code"}' in metrics


async def test_latencies_and_members_are_told_by_pool_and_model(fleet):
    async with fleet(answer_hello, answer_hello, pools=POOLS) as f:
        apply_two_pools(f, MemberState.DRAINING)
        apply_two_pools(f)
        client = await f.client()
        for model in ("chat", "coder", "coder-sql", "coder-sql", "nothing"):
            await client.post("/v1/chat/completions", ask(model))
        metrics = (await (await f.client(f.admin_port)).get("/metrics")).body.decode()
    for model, pool, count in (("chat", "", 1), ("coder", "code", 1), ("coder-sql", "code", 2)):
        assert f'dualmap_end_to_end_seconds_count{{model="{model}",pool="{pool}"}} {count}.0' in metrics
    assert 'model="nothing"' not in metrics
    assert 'dualmap_members{model="coder",pool="code",state="ready"} 1.0' in metrics
    assert 'dualmap_members{model="coder",pool="code",state="draining"} 0.0' in metrics
    assert 'dualmap_members{model="",pool="code",state="ready"} 0.0' in metrics


async def test_a_name_that_no_instance_has_told_of_makes_no_series(fleet):
    async with fleet(answer_hello) as f:
        client = await f.client()
        for number in range(3):
            assert (await client.post("/v1/chat/completions", ask(f"made up {number}"))).status == 200
        assert list(f.gateway.metrics.latencies.by_model) == [("", "")]


# Configuration.

TWO = """
simulate: {count: 2, model: chat}
pools:
  code:
    simulate: {count: 1, model: coder}
    scheduler: {ttft_slo_s: 2, tpot_slo_s: 0.05}
    scaling: {min_replicas: 1, max_replicas: 3}
"""


def config_of(text: str, directory) -> DualMapConfig:
    path = directory / "dualmap.yaml"
    path.write_text(text)
    return load_config(path, {})


def test_instances_are_named_by_their_pool(tmp_path):
    config = config_of(TWO, tmp_path)
    specs = {placed.spec.instance_id: placed.spec for placed in own_specs(config)}
    assert {i: spec.pool for i, spec in specs.items()} == {"sim-0": "", "sim-1": "", "code-sim-0": "code"}
    assert "coder" in specs["code-sim-0"].command
    prefix = scaled_prefix("code", config.all_pools()["code"], Role.BOTH)
    assert [is_scaled(i, prefix) for i in ("code-sim-1", "sim-1", "code-sim-x")] == [True, False, False]
    assert scaled_spec(config, "code", 0.0, "code-sim-2").spec.pool == "code"
    scheduler = config.all_pools()["code"].scheduler
    assert (scheduler.ttft_slo_s, scheduler.tpot_slo_s) == (2.0, 0.05)


def test_pools_can_stand_alone(tmp_path):
    config = config_of("pools: {a: {simulate: {count: 1, model: a}}, b: {simulate: {count: 1, model: b}}}", tmp_path)
    assert list(config.all_pools()) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pools: {a: {}}", "pools.a: has no instances"),
        ("pools: {A_b: {simulate: {count: 1}}}", "pools.A_b"),
        ("simulate: {count: 1}\npools: {a: {gateway: {}}}", "pools.a.gateway: unknown key"),
        ("instances: ['http://h:1']\npools: {a: {instances: ['http://h:1']}}", "instances are named twice: h:1"),
        (
            "simulate: {count: 1}\npools: {a: {simulate: {count: 1, model: a}, scheduler: {block_tokens: 128}}}",
            "scheduler.block_tokens must be the same in all pools",
        ),
        (
            "pools: {a: {simulate: {count: 1}, instances: ['http://h:1'], scaling: {max_replicas: 2}}}",
            "pools.a: scaling is for instances of one kind",
        ),
    ],
)
def test_a_bad_pool_is_named(tmp_path, text, said):
    with pytest.raises(ConfigFileError, match=said):
        config_of(text, tmp_path)


# Weights.

MIXED = """
instances:
  - http://a:1
  - {url: "http://b:1", capacity: {prefill_tokens_per_s: 12500}}
  - {url: "http://c:1", capacity: {weight: 5}}
"""


def test_the_share_of_the_rings_is_by_speed_unless_it_is_named(tmp_path):
    config = config_of(MIXED, tmp_path)
    specs = [external_spec(config, "", instance).spec for instance in config.instances]
    weights = {spec.instance_id: spec.capacity.weight for spec in specs}
    mean = (6250 + 12500 + 6250) / 3
    assert weights == {"a:1": 6250 / mean, "b:1": 12500 / mean, "c:1": 5}
    assert InstanceCapacity().ring_weight == 1.0


def test_all_alike_weigh_one_also_those_that_scaling_starts(tmp_path):
    config = config_of("simulate: {count: 2, capacity: {prefill_tokens_per_s: 100}}", tmp_path)
    weights = [placed.spec.capacity.weight for placed in own_specs(config)]
    assert [*weights, scaled_spec(config, "", 0.0, "sim-7").spec.capacity.weight] == [1.0, 1.0, 1.0]


# Deployed.

DEPLOYED = """
simulate: {count: 1, model: chat}
pools:
  code:
    simulate: {count: 1, model: coder}
    scheduler: {ttft_slo_s: 2}
"""


@pytest.mark.ray
@pytest.mark.slow
def test_two_models_behind_one_deployed_gateway_scale_apart(tmp_path):
    with deployed(directory=tmp_path, config=DEPLOYED) as deployment:
        admin = ("--admin", f"http://127.0.0.1:{deployment.admin_port}")
        assert main(["scale", "2", "--pool", "code", *admin]) == 0
        with deployment.client() as client:
            messages = [{"role": "user", "content": "Which one are you?"}]
            served = {
                model: client.chat.completions.with_raw_response.create(model=model, messages=messages, max_tokens=2)
                for model in ("chat", "coder")
            }
            assert served["chat"].headers["x-dualmap-instance"] == "sim-0"
            assert served["coder"].headers["x-dualmap-instance"].startswith("code-sim-")
            assert [card.id for card in client.models.list()] == ["chat", "coder"]
        states = {i: (m["pool"], m["state"]) for i, m in deployment.members().items()}
        assert states == {
            "code-sim-0": ("code", "ready"),
            "code-sim-1": ("code", "ready"),
            "sim-0": ("", "ready"),
        }
        assert main(["drain", "code-sim-0", *admin]) == 0
        await_that(lambda: sorted(deployment.members()) == ["code-sim-1", "sim-0"], "it has left")
