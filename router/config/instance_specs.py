"""The configuration -> what each Instance actor is to keep, and what it needs of the Ray cluster. Ids stay the same
from run to run: they are what the rings hash."""

import sys
from dataclasses import dataclass, replace

from dualmap.instances.server.vllm_command import (
    KV_ENDPOINT,
    KV_REPLAY_ENDPOINT,
    KV_TOPIC,
    TRANSFER_ENV,
    find_vllm,
    kv_events_args,
    number_of,
    serve_command,
    serve_env,
    transfer_args,
)
from dualmap.instances.spec import InstanceSpec, KvEventSource
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.pool_settings import ExternalInstance, PoolSettings
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role


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


def external_endpoint(config: DualMapConfig, instance: ExternalInstance) -> Endpoint:
    """Of one that runs already, with the gateways' key for instances where it has none of its own."""
    endpoint = instance.endpoint
    return endpoint if endpoint.key_file else replace(endpoint, key_file=_key_file(config))


def _key_file(config: DualMapConfig) -> str:
    return str(config.gateway.instance_key_file or "")


def own_specs(config: DualMapConfig, cluster_gpus: float = 0.0) -> list[PlacedSpec]:
    """Of those that are started here, in all pools. cluster_gpus: of the whole Ray cluster. Raises NoVllmError."""
    return [placed for name in config.all_pools() for placed in _own_of_pool(config, name, cluster_gpus)]


def _own_of_pool(config: DualMapConfig, pool_name: str, cluster_gpus: float) -> list[PlacedSpec]:
    pool = config.all_pools()[pool_name]
    return [
        *(_simulated(config, pool_name, r, number) for r, n in pool.simulate.numbers.items() for number in range(n)),
        *(
            _vllm(config, pool_name, cluster_gpus, r, number)
            for r, n in pool.vllm.numbers.items()
            for number in range(n)
        ),
    ]


def scaled_prefix(pool_name: str, pool: PoolSettings, role: Role) -> str:
    """With which the ids of the instances of that role begin that scaling starts and drains; a number follows. Empty
    where all run already."""
    if role not in pool.replicas:
        return ""
    return _prefix(pool_name, "vllm" if pool.vllm.model else "sim", role)


def is_scaled(instance_id: str, prefix: str) -> bool:
    return bool(prefix) and instance_id.startswith(prefix) and instance_id.removeprefix(prefix).isdecimal()


def scaled_spec(config: DualMapConfig, pool_name: str, cluster_gpus: float, instance_id: str) -> PlacedSpec:
    """Of one that scaling starts. Raises NoVllmError."""
    pool = config.all_pools()[pool_name]
    prefixes = {role: scaled_prefix(pool_name, pool, role) for role in pool.replicas}
    role = next(role for role, prefix in prefixes.items() if is_scaled(instance_id, prefix))
    number = int(instance_id.removeprefix(prefixes[role]))
    if pool.vllm.model:
        return _vllm(config, pool_name, cluster_gpus, role, number)
    return _simulated(config, pool_name, role, number)


def _prefix(pool_name: str, kind: str, role: Role) -> str:
    kind = kind if role is Role.BOTH else f"{kind}-{role}"
    return f"{pool_name}-{kind}-" if pool_name else f"{kind}-"


def _weighed(capacity: InstanceCapacity, pool: PoolSettings) -> InstanceCapacity:
    """With its share of the rings, where none is named: as fast as it is configured to be, compared with the pool's
    other instances. Those that scaling starts change nothing: they are as the configured ones."""
    if capacity.weight is not None:
        return capacity
    replicas = max(1, sum(pool.vllm.numbers.values())) if pool.vllm.model else 0
    counts = [(pool.simulate.capacity, sum(pool.simulate.numbers.values())), (pool.vllm.capacity, replicas)]
    counts += [(instance.capacity, len(instance.members)) for instance in pool.instances]
    mean = sum(c.prefill_tokens_per_s * count for c, count in counts) / sum(count for _, count in counts)
    return replace(capacity, weight=capacity.prefill_tokens_per_s / mean)


def _simulated(config: DualMapConfig, pool_name: str, role: Role, number: int) -> PlacedSpec:
    pool = config.all_pools()[pool_name]
    simulate = pool.simulate
    capacity = _weighed(simulate.capacity, pool)
    command = (
        *(sys.executable, "-P", "-m", "dualmap.instances.simulated.cli", "--port", "0", "--model", simulate.model),
        *("--prefill-tokens-per-s", str(capacity.prefill_tokens_per_s)),
        *("--kv-tokens", str(capacity.kv_tokens)),
        *("--max-num-seqs", str(capacity.max_running)),
        *("--max-num-batched-tokens", str(simulate.max_num_batched_tokens)),
        *(argument for name in simulate.lora for argument in ("--lora", name)),
        *(() if role is Role.BOTH else ("--role", role.value)),
        *(kv_events_args() if simulate.kv_events else ()),
    )
    instance_id = f"{_prefix(pool_name, 'sim', role)}{number}"
    log_path = config.log_dir.absolute() / f"{instance_id}.log"
    events = _own_events(config, pool_name) if simulate.kv_events else None
    spec = InstanceSpec(instance_id, capacity, log_path, command, kv_events=events, pool=pool_name, role=role)
    return PlacedSpec("simulated", spec)


def _vllm(config: DualMapConfig, pool_name: str, cluster_gpus: float, role: Role, number: int) -> PlacedSpec:
    pool = config.all_pools()[pool_name]
    vllm = pool.vllm.of_role(role)
    assert vllm.model is not None
    gpus = vllm.gpus_per_replica
    if gpus is None:
        gpus = float(vllm.tensor_parallel_size) if cluster_gpus else 0.0
    command = serve_command(
        find_vllm(vllm.executable),
        vllm.model,
        (*transfer_args(role, vllm.engine_args), *vllm.engine_args),
        tensor_parallel_size=vllm.tensor_parallel_size,
        kv_events=vllm.kv_events,
    )
    capacity = _weighed(vllm.capacity, pool)
    capacity = replace(
        capacity,
        max_running=number_of(vllm.engine_args, "--max-num-seqs") or capacity.max_running,
        max_adapters=number_of(vllm.engine_args, "--max-loras") or capacity.max_adapters,
    )
    instance_id = f"{_prefix(pool_name, 'vllm', role)}{number}"
    env = vllm.env if role is Role.BOTH else TRANSFER_ENV | vllm.env
    spec = InstanceSpec(
        instance_id,
        capacity,
        config.log_dir.absolute() / f"{instance_id}.log",
        command,
        serve_env(gpus, vllm.cpus_per_replica, env),
        start_timeout_s=vllm.start_timeout_s,
        endpoint=Endpoint(key_file=_key_file(config)),
        stop_grace_s=vllm.stop_grace_s,
        kv_events=_own_events(config, pool_name) if vllm.kv_events else None,
        pool=pool_name,
        role=role,
    )
    return PlacedSpec("vLLM", spec, vllm.cpus_per_replica, gpus)


def _own_events(config: DualMapConfig, pool_name: str) -> KvEventSource:
    """Of a server that is started here."""
    return KvEventSource(KV_ENDPOINT, KV_REPLAY_ENDPOINT, KV_TOPIC, _named_block_tokens(config, pool_name))


def external_spec(config: DualMapConfig, pool_name: str, instance: ExternalInstance) -> PlacedSpec:
    """Of one that runs already: a server, or a single rank of one."""
    events, endpoint = instance.kv_events, external_endpoint(config, instance)
    source = None
    if events is not None:
        block_tokens = _named_block_tokens(config, pool_name)
        source = KvEventSource(
            of_rank(events.endpoint, endpoint.rank),
            events.replay_endpoint and of_rank(events.replay_endpoint, endpoint.rank),
            events.topic,
            block_tokens,
        )
    capacity = _weighed(instance.capacity, config.all_pools()[pool_name])
    spec = InstanceSpec(
        instance.id,
        capacity,
        endpoint=endpoint,
        kv_events=source,
        pool=pool_name,
        probe=instance.probe,
        behind_balancer=instance.behind_balancer,
        role=instance.role,
        revision=instance.revision,
    )
    return PlacedSpec("external", spec)


def of_rank(zmq_endpoint: str, rank: int | None) -> str:
    """Where a rank publishes what a server was told to: each has a port of its own, as vLLM's offset_endpoint_port
    says."""
    if not rank:
        return zmq_endpoint
    address, _, port = zmq_endpoint.rpartition(":")
    return f"{address}:{int(port) + rank}"


def _named_block_tokens(config: DualMapConfig, pool_name: str) -> int:
    """0: the gateway does not know blocks by their tokens, which it does with a tokenizer and in the first pool."""
    pools = config.all_pools()
    by_tokens = config.gateway.tokenizer and pool_name == next(iter(pools))
    return pools[pool_name].scheduler.block_tokens if by_tokens else 0
