"""A configuration -> what each actor is to keep, and what it needs of Ray."""

import argparse
import json
from pathlib import Path

import pytest

from dualmap.instances.server.vllm_command import NoVllmError
from dualmap.instances.simulated.kv_events_config import read_kv_events_config
from dualmap.router.cli.deployment_flags import add_deployment_flags, overrides
from dualmap.router.config.instance_specs import external_spec, own_specs, scaled_spec
from dualmap.router.config.load import load_config
from dualmap.scheduler.role import Role


@pytest.fixture
def vllm(tmp_path) -> Path:
    path = tmp_path / "vllm"
    path.touch(mode=0o755)
    return path


def specs(cluster_gpus: float = 0.0, **sections):
    config = load_config(None, sections)
    return own_specs(config, cluster_gpus) + [external_spec(config, "", instance) for instance in config.instances]


@pytest.mark.parametrize(
    ("options", "cluster_gpus", "bundle"),
    [
        ({}, 0, {"CPU": 1}),
        ({}, 8, {"CPU": 1, "GPU": 1}),
        ({"tensor_parallel_size": 4}, 8, {"CPU": 1, "GPU": 4}),
        ({"gpus_per_replica": 0.5}, 8, {"CPU": 1, "GPU": 0.5}),
        ({"gpus_per_replica": 0, "cpus_per_replica": 0.5}, 8, {"CPU": 0.5}),
    ],
)
def test_a_replica_asks_ray_for_what_it_takes(vllm, options, cluster_gpus, bundle):
    placed = specs(cluster_gpus, vllm={"model": "m", "replicas": 2, "executable": str(vllm), **options})
    assert [p.spec.instance_id for p in placed] == ["vllm-0", "vllm-1"]
    assert [p.bundle for p in placed] == [bundle, bundle]
    assert ("OMP_NUM_THREADS" in placed[0].spec.env) is ("GPU" not in bundle)


def test_servers_of_a_role_are_told_to_hand_prompts_on_and_where_they_meet(vllm):
    roles = {"prefill": {"replicas": 2, "engine_args": "--max-num-seqs 8"}, "decode": 1}
    placed = specs(8, vllm={"model": "m", "executable": str(vllm), "engine_args": "--seed 1", **roles})
    assert [(p.spec.instance_id, p.spec.role.value) for p in placed] == [
        *(("vllm-prefill-0", "prefill"), ("vllm-prefill-1", "prefill")),
        ("vllm-decode-0", "decode"),
    ]
    prefill, _, decode = (p.spec for p in placed)
    assert told(prefill.command) == {"kv_connector": "NixlConnector", "kv_role": "kv_producer"}
    assert told(decode.command) == {"kv_connector": "NixlConnector", "kv_role": "kv_consumer"}
    assert prefill.command[-4:] == ("--seed", "1", "--max-num-seqs", "8")
    assert (prefill.capacity.max_running, decode.command[-2:]) == (8, ("--seed", "1"))
    assert prefill.env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "{kv_port}"
    assert [p.spec.capacity.weight for p in placed] == [1.0, 1.0, 1.0]


def told(command: tuple[str, ...]) -> dict[str, str]:
    return json.loads(command[command.index("--kv-transfer-config") + 1])


@pytest.mark.parametrize("flag", ["--kv-transfer-config {}", "--kv-transfer-config={}", "--kv-transfer-config.x=y"])
def test_how_prompts_are_handed_on_is_left_to_the_users_own_arguments(vllm, flag):
    roles = {"prefill": {"engine_args": flag}, "decode": {"tensor_parallel_size": 2}}
    prefill, decode = specs(8, vllm={"model": "m", "executable": str(vllm), **roles})
    assert sum(argument.startswith("--kv-transfer-config") for argument in prefill.spec.command) == 1
    assert told(decode.spec.command)["kv_role"] == "kv_consumer"
    assert [prefill.gpus, decode.gpus] == [1, 2]


def test_simulated_servers_have_roles_and_further_ones_are_as_the_first():
    config = load_config(None, {"pools": {"code": {"simulate": {"prefill": 1, "decode": 2}}}})
    assert [p.spec.instance_id for p in own_specs(config)] == [
        "code-sim-prefill-0",
        "code-sim-decode-0",
        "code-sim-decode-1",
    ]
    further = scaled_spec(config, "code", 0.0, "code-sim-prefill-7").spec
    assert (further.role, further.command[-2:]) == (Role.PREFILL, ("--role", "prefill"))


def test_the_requests_it_runs_at_once_are_those_of_its_arguments(vllm):
    engine_args = "--max-num-seqs 16"
    (placed,) = specs(vllm={"model": "m", "executable": str(vllm), "engine_args": engine_args})
    assert placed.spec.capacity.max_running == 16


@pytest.mark.parametrize(("tokenizer", "block_tokens"), [(None, 0), ("m", 128)])
def test_kv_events_name_blocks_only_for_a_gateway_with_a_tokenizer(vllm, tokenizer, block_tokens):
    placed = specs(
        vllm={"model": "m", "executable": str(vllm), "kv_events": True},
        instances=[{"url": "http://127.0.0.1:1", "kv_events": {"endpoint": "tcp://*:7"}}, "http://127.0.0.1:2"],
        gateway={"tokenizer": tokenizer},
        scheduler={"block_tokens": 128},
    )
    sources = [p.spec.kv_events for p in placed]
    assert [source and source.block_tokens for source in sources] == [block_tokens, block_tokens, None]
    assert sources[1].endpoint == "tcp://*:7"


def test_simulated_instances_publish_kv_events_where_they_are_to():
    plain, placed = (
        specs(simulate={"count": 1, **options}, gateway={"tokenizer": "simulated"}, scheduler={"block_tokens": 64})[0]
        for options in ({}, {"kv_events": True})
    )
    config = read_kv_events_config(placed.spec.command[placed.spec.command.index("--kv-events-config") + 1])
    events = placed.spec.kv_events
    assert (config.endpoint, config.replay_endpoint, config.topic, config.publishes) == (
        events.endpoint,
        events.replay_endpoint,
        events.topic,
        True,
    )
    assert events.block_tokens == 64
    assert plain.spec.kv_events is None
    assert "--kv-events-config" not in plain.spec.command


@pytest.mark.parametrize(
    ("flags", "simulated", "vllm"),
    [
        (["--simulate", "1"], True, False),
        (["--model", "m"], False, True),
        (["--model", "m", "--simulate", "1"], True, True),
    ],
)
def test_a_flag_turns_kv_events_on_for_what_flags_start(flags, simulated, vllm):
    parser = argparse.ArgumentParser()
    add_deployment_flags(parser)
    config = load_config(None, overrides(parser.parse_args(["--kv-events", *flags])))
    assert (config.simulate.kv_events, config.vllm.kv_events) == (simulated, vllm)


def test_kv_events_of_a_rank_are_at_a_port_of_its_own():
    events = {"endpoint": "tcp://*:5557", "replay_endpoint": "tcp://h:5567"}
    config = load_config(None, {"instances": [{"url": "http://127.0.0.1:1@0..1", "kv_events": events}]})
    sources = [external_spec(config, "", member).spec.kv_events for member in config.instances[0].members]
    assert [(source.endpoint, source.replay_endpoint) for source in sources] == [
        ("tcp://*:5557", "tcp://h:5567"),
        ("tcp://*:5558", "tcp://h:5568"),
    ]


def test_instances_that_are_watched_or_simulated_need_nothing_of_ray():
    placed = specs(8, simulate={"count": 1}, instances=["http://127.0.0.1:1"])
    assert [(p.kind, p.bundle) for p in placed] == [("simulated", {}), ("external", {})]


def test_a_missing_vllm_is_an_error():
    with pytest.raises(NoVllmError):
        specs(vllm={"model": "m", "executable": "/no/such/vllm"})
