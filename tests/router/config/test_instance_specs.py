"""A configuration -> what each actor is to keep, and what it needs of Ray."""

from pathlib import Path

import pytest

from dualmap.instances.server.vllm_command import NoVllmError
from dualmap.router.config.instance_specs import external_spec, own_specs
from dualmap.router.config.load import load_config


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
