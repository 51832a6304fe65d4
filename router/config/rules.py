"""What must hold between the settings of a deployment, each right by itself."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.faults import Fault, Place, dotted
from dualmap.router.config.gateway_settings import GatewaySettings
from dualmap.router.config.instance_specs import of_rank
from dualmap.router.config.instance_url import is_ip
from dualmap.router.config.kv_transfer import NIXL
from dualmap.router.config.pool_settings import ExternalInstance, PoolSettings
from dualmap.router.config.runtime import runtime_faults
from dualmap.scheduler.role import Role

LAST_PORT = 65535
EVERY_ADDRESS = ("0.0.0.0", "::", "")
ONLY_MOONCAKE = "is of servers with MooncakeConnector: set kv_transfer.connector to mooncake, or leave it out"
SENT_ONCE = "gateway.picker: a proxy sends each request once, so that an instance that only prefills gets none"
NO_INSTANCES = "no instances: name a model, one or more URLs, or simulate some"

Instances = list[tuple[Place, ExternalInstance]]


def contradictions(config: DualMapConfig) -> Iterator[Fault]:
    """A fault for each."""
    pools = {place_of(name): pool for name, pool in config.all_pools().items()}
    instances = [
        ((*place, "instances", position), instance)
        for place, pool in pools.items()
        for position, instance in enumerate(pool.instances)
    ]
    if not pools:
        yield Fault((), NO_INSTANCES)
    for place, pool in pools.items():
        if pool.is_empty:
            yield Fault(place, f"has {NO_INSTANCES}")
    yield from runtime_faults(config)
    yield from _same_ports(config.gateway)
    yield from _same_instances(instances)
    yield from _own_addresses(config.gateway, instances)
    yield from _same_kv_events(instances)
    yield from _roles(config, pools)
    yield from _bootstraps(pools)
    yield from _same_models(pools)
    yield from _aliases(config)
    if config.gateway.picker is not None:
        for place, instance in instances:
            if instance.ranks:
                yield Fault(place, f"gateway.picker: proxies do not say which rank of {instance.url} is meant")
            elif instance.endpoint.socket or instance.endpoint.prefix:
                yield Fault(place, f"gateway.picker: proxies reach instances at HOST:PORT only, not at {instance.id}")
            elif not is_ip(name := instance.endpoint.host):
                yield Fault(place, f"gateway.picker: proxies know instances by IP address, not by name: {name}")
    sizes = [pool.scheduler.block_tokens for pool in pools.values()]
    for place, size in zip(pools, sizes, strict=True):
        if size != sizes[0]:
            rule = "scheduler.block_tokens must be the same in all pools"
            yield Fault((*place, "scheduler", "block_tokens"), rule, str(size))


def place_of(pool_name: str) -> Place:
    """Where a pool's settings stand: those of the first one at the top."""
    return ("pools", pool_name) if pool_name else ()


def _aliases(config: DualMapConfig) -> Iterator[Fault]:
    aliases = config.model_aliases
    if aliases and config.gateway.picker is not None:
        yield Fault(("model_aliases",), "gateway.picker: a proxy sends bodies as they came: have it rename models")
    for alias, model in aliases.items():
        if model in aliases:
            yield Fault(("model_aliases", alias), "stands for another alias: name what instances serve", model)


def _same_ports(gateway: GatewaySettings) -> Iterator[Fault]:
    first, last = gateway.admin_port, gateway.admin_port + gateway.count - 1
    if not first:
        return
    place = ("gateway", "admin_port")
    if last > LAST_PORT:
        yield Fault(
            place, f"{gateway.count} gateways need the ports up to {last}, and {LAST_PORT} is the last", str(first)
        )
    if first <= gateway.port <= last and _meet(gateway.host, gateway.admin_host):
        ports = str(first) if first == last else f"{first} to {last}, one for each gateway,"
        yield Fault(place, f"gateway.port and gateway.admin_port must differ: {ports} and {gateway.port}")


def _same_instances(instances: Instances) -> Iterator[Fault]:
    seen: dict[str, Place] = {}
    for place, instance in instances:
        for member in instance.members:
            endpoint = member.endpoint
            first = seen.setdefault(replace(endpoint, host=_host(endpoint.host)).instance_id, place)
            if first != place:
                yield Fault(place, f"instances are named twice: {member.id}, as at {dotted(first)}")


def _own_addresses(gateway: GatewaySettings, instances: Instances) -> Iterator[Fault]:
    """A gateway that is its own instance would send itself each request again."""
    own = ((gateway.host, gateway.port), (gateway.admin_host, gateway.admin_port))
    for place, instance in instances:
        host, port = _host(instance.endpoint.host), instance.endpoint.port
        if host and any(port == taken and (host == _host(name) or _is_here(host, name)) for name, taken in own):
            yield Fault(place, f"{instance.id} is an address of the gateway itself")


def _same_kv_events(instances: Instances) -> Iterator[Fault]:
    seen: dict[str, Place] = {}
    for place, instance in instances:
        events = instance.kv_events
        for name in ("endpoint", "replay_endpoint") if events else ():
            if endpoint := getattr(events, name):
                here = (*place, "kv_events", name)
                for rank in instance.ranks or (None,):
                    there = of_rank(endpoint, rank)
                    first = seen.setdefault(there.replace("*", _host(instance.endpoint.host)), here)
                    if first != here:
                        whose = "" if rank is None else f"of rank {rank} "
                        yield Fault(here, f"{whose}is the same as {dotted(first)}", repr(there))


def _roles(config: DualMapConfig, pools: dict[Place, PoolSettings]) -> Iterator[Fault]:
    for place, pool in pools.items():
        roles = {instance.role for instance in pool.instances}
        if config.gateway.picker is not None and Role.PREFILL in roles | pool.replicas.keys():
            kind = "instances" if Role.PREFILL in roles else "vllm" if pool.vllm.model else "simulate"
            yield Fault((*place, kind), SENT_ONCE)
        elif config.gateway.picker is not None and Role.PREFILL in pool.scaled_roles:
            yield Fault((*place, "scaling", "prefill"), SENT_ONCE)
        if roles == {Role.PREFILL} and not (pool.discovery or pool.replicas):
            yield Fault((*place, "instances"), "all of them only prefill, and none answers: name one with role: decode")


def _bootstraps(pools: dict[Place, PoolSettings]) -> Iterator[Fault]:
    """Of those that may compute prompts: who asks at another one's port is told of that one's engine."""
    seen: dict[tuple[str, int], tuple[str, Place]] = {}
    for place, pool in pools.items():
        transfer = pool.kv_transfer
        if transfer.connector == NIXL and "bootstrap_port" in transfer.model_fields_set:
            yield Fault((*place, "kv_transfer", "bootstrap_port"), ONLY_MOONCAKE)
        for position, instance in enumerate(pool.instances):
            here, endpoint = (*place, "instances", position), instance.endpoint
            if transfer.connector == NIXL:
                if instance.bootstrap_port is not None:
                    yield Fault((*here, "bootstrap_port"), ONLY_MOONCAKE)
            elif instance.role is Role.PREFILL and endpoint.socket:
                yield Fault(here, f"{instance.id} has no address where others reach its bootstrap server: name a URL")
            elif instance.role is not Role.DECODE and endpoint.host:
                port = instance.bootstrap_port or transfer.bootstrap_port
                server, host = f"{endpoint.host}:{endpoint.port}", _host(endpoint.host)
                first, there = seen.setdefault((host, port), (server, here))
                if first != server:
                    rule = f"is {port}, as of {dotted(there)} on the same host: each server has its own"
                    yield Fault((*here, "bootstrap_port"), rule)


def _same_models(pools: dict[Place, PoolSettings]) -> Iterator[Fault]:
    seen: dict[str, Place] = {}
    for place, pool in pools.items():
        for model in pool.models:
            first = seen.setdefault(model, place)
            if first != place:
                other = dotted(first) or "the first pool"
                yield Fault(place, f"two pools must not serve the same model, and {other} serves {model!r}")


def _meet(host: str, other: str) -> bool:
    """Whether a port cannot be taken at both addresses."""
    return _host(host) == _host(other) or host in EVERY_ADDRESS or other in EVERY_ADDRESS


def _is_here(host: str, listening: str) -> bool:
    return listening in EVERY_ADDRESS and is_ip(host) and ip_address(host).is_loopback


def _host(name: str) -> str:
    """The same for the same host, as far as its name says."""
    name = name.lower().rstrip(".")
    if name == "localhost":
        return "127.0.0.1"
    return ip_address(name).compressed if is_ip(name) else name
