"""The configuration -> what each Instance actor is to keep, and what it needs of the Ray cluster. Ids stay the same
from run to run: they are what the rings hash."""

import sys
from dataclasses import dataclass, replace

from instances.instance_spec import InstanceSpec, KvEventSource
from instances.vllm_command import KV_TOPIC, find_vllm, max_num_seqs, serve_command, serve_env
from router.config import DualMapConfig

SIMULATED_PREFIX = "sim-"
VLLM_PREFIX = "vllm-"


@dataclass(frozen=True, slots=True)
class PlacedSpec:
    """kind: for messages. Resources: of the actor's placement group; none where it only watches or simulates."""

    kind: str
    spec: InstanceSpec
    cpus: float = 0.0
    gpus: float = 0.0

    @property
    def bundle(self) -> dict[str, float]:
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}


def instance_specs(config: DualMapConfig, cluster_gpus: float = 0.0) -> list[PlacedSpec]:
    """cluster_gpus: of the whole Ray cluster. Raises NoVllmError."""
    simulated = [_simulated(config, number) for number in range(config.simulate.count)]
    replicas = config.vllm.replicas if config.vllm.model else 0
    return [*simulated, *(_vllm(config, cluster_gpus, number) for number in range(replicas)), *_external(config)]


def scaled_prefix(config: DualMapConfig) -> str:
    """With which the ids of the instances begin that scaling starts and drains; a number follows. Empty where all run
    already."""
    if config.vllm.model:
        return VLLM_PREFIX
    return SIMULATED_PREFIX if config.simulate.count else ""


def is_scaled(instance_id: str, prefix: str) -> bool:
    return bool(prefix) and instance_id.startswith(prefix) and instance_id.removeprefix(prefix).isdecimal()


def scaled_spec(config: DualMapConfig, cluster_gpus: float, instance_id: str) -> PlacedSpec:
    """Of one that scaling starts. Raises NoVllmError."""
    prefix = scaled_prefix(config)
    number = int(instance_id.removeprefix(prefix))
    return _vllm(config, cluster_gpus, number) if prefix == VLLM_PREFIX else _simulated(config, number)


def _simulated(config: DualMapConfig, number: int) -> PlacedSpec:
    simulate = config.simulate
    capacity = simulate.capacity
    command = (
        *(sys.executable, "-m", "instances.sim_cli", "--port", "0", "--model", simulate.model),
        *("--prefill-tokens-per-s", str(capacity.prefill_tokens_per_s)),
        *("--kv-tokens", str(capacity.kv_tokens)),
        *("--max-num-seqs", str(capacity.max_running)),
        *("--max-num-batched-tokens", str(simulate.max_num_batched_tokens)),
    )
    instance_id = f"{SIMULATED_PREFIX}{number}"
    log_path = config.log_dir.absolute() / f"{instance_id}.log"
    return PlacedSpec("simulated", InstanceSpec(instance_id, capacity, log_path, command))


def _vllm(config: DualMapConfig, cluster_gpus: float, number: int) -> PlacedSpec:
    vllm = config.vllm
    assert vllm.model is not None
    gpus = vllm.gpus_per_replica
    if gpus is None:
        gpus = float(vllm.tensor_parallel_size) if cluster_gpus else 0.0
    command = serve_command(
        find_vllm(vllm.executable),
        vllm.model,
        vllm.engine_args,
        tensor_parallel_size=vllm.tensor_parallel_size,
        kv_events=vllm.kv_events,
    )
    running = max_num_seqs(vllm.engine_args)
    capacity = vllm.capacity if running is None else replace(vllm.capacity, max_running=running)
    events = KvEventSource("tcp://*:{kv_port}", "tcp://*:{kv_replay_port}", KV_TOPIC, _named_block_tokens(config))
    instance_id = f"{VLLM_PREFIX}{number}"
    spec = InstanceSpec(
        instance_id,
        capacity,
        config.log_dir.absolute() / f"{instance_id}.log",
        command,
        serve_env(gpus, vllm.cpus_per_replica, vllm.env),
        start_timeout_s=vllm.start_timeout_s,
        stop_grace_s=vllm.stop_grace_s,
        kv_events=events if vllm.kv_events else None,
    )
    return PlacedSpec("vLLM", spec, vllm.cpus_per_replica, gpus)


def _external(config: DualMapConfig) -> list[PlacedSpec]:
    specs = []
    for instance in config.instances:
        host, port = instance.address
        events = instance.kv_events
        source = None
        if events is not None:
            source = KvEventSource(events.endpoint, events.replay_endpoint, events.topic, _named_block_tokens(config))
        log_path = config.log_dir.absolute() / f"{instance.id}.log"
        specs.append(
            PlacedSpec(
                "external",
                InstanceSpec(instance.id, instance.capacity, log_path, host=host, port=port, kv_events=source),
            )
        )
    return specs


def _named_block_tokens(config: DualMapConfig) -> int:
    """0: without a tokenizer the gateway does not know blocks by their tokens."""
    return config.scheduler.block_tokens if config.gateway.tokenizer else 0
