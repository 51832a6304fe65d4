"""Settings that contradict each other, each right by itself."""

import pytest

from dualmap.router.config.instance_specs import own_specs, scaled_spec
from dualmap.router.config.load import ConfigFileError, load_config

ONE = {"simulate": {"count": 1}}
A = "http://10.0.0.1:8000"
PREFILLS = {"url": "http://10.0.0.9:1", "role": "prefill"}
MOONCAKE = {"kv_transfer": {"connector": "mooncake"}}
EVENTS = {"endpoint": "tcp://*:5557"}


def pools(**each: dict) -> dict:
    return {"pools": each}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (ONE | {"gateway": {"port": 8081}}, "gateway.admin_port: gateway.port and gateway.admin_port must differ"),
        (ONE | {"runtime": "local"}, "runtime: the first pool starts servers, which needs Ray: leave it out"),
        (pools(b={"vllm": {"model": "m"}}) | {"runtime": "local"}, "runtime: pool b starts servers, which needs Ray"),
        ({"instances": [A], "runtime": "local", "ray_address": "auto"}, "runtime: ray_address names a Ray cluster"),
        (
            {"instances": [A], "runtime": "local", "gateway": {"on_every_node": True}},
            "runtime: gateway.on_every_node asks for gateways on several nodes",
        ),
        (ONE | {"runtime": "none"}, "runtime"),
        (
            {"vllm": {"model": "m", "replicas": 0}, "scaling": {"min_replicas": 1}},
            "vllm.replicas: 0 is for pools that scale from zero",
        ),
        ({"vllm": {"model": "m", "replicas": 0}}, "vllm.replicas: 0 is for pools that scale from zero"),
        (ONE | {"scheduler": {"cold_start_timeout_s": -1}}, "cold_start_timeout_s must be at least 0, not -1"),
        (ONE | {"gateway": {"count": 0}}, "gateway.count: without gateways here, others have to join"),
        (
            {"instances": [A], "ray_address": "ray://head:10001", "gateway": {"count": 0}},
            "gateway.count: gateways only run where ray_address is ray://",
        ),
        (
            {"instances": [A], "ray_address": "ray://head:10001", "gateway": {"on_every_node": True}},
            "ray_address: gateways that join over ray:// are processes of this machine",
        ),
        ({"instances": [A], "ray_address": "ray://head"}, "ray_address: is ray://HOST:PORT"),
        ({"instances": [A], "gateway": {"name": "a/b"}}, "gateway.name"),
        (ONE | {"model_aliases": {"a": "b", "b": "c"}}, "model_aliases.a: stands for another alias"),
        (ONE | {"model_aliases": {"a": "a"}}, "model_aliases.a: stands for another alias"),
        (ONE | {"model_aliases": {"a": ""}}, "model_aliases.a"),
        (
            {"instances": [{"url": A, "role": "prefill"}], "pools": {"b": {"simulate": {"count": 1}}}},
            "instances: all of them only prefill, and none answers",
        ),
        (
            {"instances": [A, {"url": "http://10.0.0.2:1", "role": "prefill"}], "gateway": {"picker": {}}},
            "instances: gateway.picker: a proxy sends each request once",
        ),
        (
            {"instances": [A], "gateway": {"picker": {}}, "scaling": {"prefill": {}, "decode": {}}},
            "scaling.prefill: gateway.picker: a proxy sends each request once",
        ),
        ({"instances": [{"url": A, "role": "encode"}]}, "instances.0.role"),
        (
            {"instances": [PREFILLS, {**PREFILLS, "url": "http://10.0.0.9:2"}, A], **MOONCAKE},
            "instances.1.bootstrap_port: is 8998, as of instances.0 on the same host: each server has its own",
        ),
        (
            {"instances": [A, PREFILLS | {"bootstrap_port": 9000}]},
            "instances.1.bootstrap_port: is of servers with MooncakeConnector: set kv_transfer.connector",
        ),
        ({"instances": [A], "kv_transfer": {"bootstrap_port": 9000}}, "kv_transfer.bootstrap_port: is of servers with"),
        (
            {"instances": [A, {"url": "unix:///run/vllm.sock", "role": "prefill"}], **MOONCAKE},
            "instances.1: unix:/run/vllm.sock has no address where others reach its bootstrap server",
        ),
        (
            {"instances": [A], "model_aliases": {"a": "b"}, "gateway": {"picker": {}}},
            "model_aliases: gateway.picker: a proxy sends bodies as they came",
        ),
        (ONE | {"gateway": {"port": 8082, "count": 2}}, "8081 to 8082, one for each gateway, and 8082"),
        (ONE | {"gateway": {"port": 8081, "host": "0.0.0.0"}}, "must differ"),
        (ONE | {"gateway": {"port": 8081, "host": "localhost"}}, "must differ"),
        (ONE | {"gateway": {"admin_port": 65535, "count": 2}}, "2 gateways need the ports up to 65536"),
        (
            {"instances": ["http://localhost:8000", "http://127.0.0.1:8000"]},
            "named twice: 127.0.0.1:8000, as at instances.0",
        ),
        (
            {"instances": ["http://LocalHost:8000", {"url": "http://localhost.:8000/"}]},
            "instances.1: instances are named",
        ),
        ({"instances": ["http://a", "http://a:80"]}, "instances are named twice: a:80"),
        ({"instances": [A], "pools": {"b": {"instances": [A]}}}, "pools.b.instances.0: instances are named twice"),
        ({"instances": ["http://127.0.0.1:8080"]}, "127.0.0.1:8080 is an address of the gateway itself"),
        ({"instances": ["http://localhost:8081"]}, "localhost:8081 is an address of the gateway itself"),
        ({"instances": ["http://127.0.0.2:80"], "gateway": {"host": "0.0.0.0", "port": 80}}, "of the gateway itself"),
        (
            pools(a={"simulate": {"count": 1}}, b={"simulate": {"count": 1}}),
            "pools.b: two pools must not serve the same",
        ),
        (ONE | pools(b={"simulate": {"count": 1}}), "and the first pool serves 'sim'"),
        (pools(a={"vllm": {"model": "m"}}, b={"vllm": {"model": "m"}}), "and pools.a serves 'm'"),
        (
            pools(
                a={"vllm": {"model": "m"}},
                b={"vllm": {"model": "n", "engine_args": "--served-model-name x m --seed 1"}},
            ),
            "and pools.a serves 'm'",
        ),
        (
            pools(
                a={"simulate": {"count": 1, "model": "m", "lora": ["sql"]}},
                b={"simulate": {"count": 1, "model": "sql"}},
            ),
            "and pools.a serves 'sql'",
        ),
        (
            {"instances": [{"url": A, "kv_events": EVENTS | {"replay_endpoint": "tcp://*:5557"}}]},
            "instances.0.kv_events.replay_endpoint: is the same as instances.0.kv_events.endpoint",
        ),
        (
            {"instances": [{"url": f"http://10.0.0.1:{port}", "kv_events": EVENTS} for port in (1, 2)]},
            "instances.1.kv_events.endpoint: is the same as instances.0.kv_events.endpoint",
        ),
        (
            {"instances": [{"url": f"{A}@0..1", "kv_events": EVENTS | {"replay_endpoint": "tcp://*:5558"}}]},
            "instances.0.kv_events.replay_endpoint: of rank 0 is the same as instances.0.kv_events.endpoint",
        ),
        (
            {"instances": [{"url": f"{A}@0..1", "kv_events": {"endpoint": "ipc:///run/kv"}}]},
            "kv_events of ranks are published at ports",
        ),
        ({"instances": [f"{A}@0..3", f"{A}@3"]}, "instances are named twice: 10.0.0.1:8000@3, as at instances.0"),
        ({"instances": [{"url": f"{A}@0..3", "behind_balancer": True}]}, "ranks are those of one server"),
        ({"instances": [f"{A}@0..3"], "gateway": {"picker": {}}}, "proxies do not say which rank of"),
        ({"instances": ["http://user:pw@10.0.0.1:8000"]}, "takes no user and password: they would be dropped"),
        (
            {"instances": ["http://10.0.0.1:70000"]},
            "instances.0.url: an instance's URL has the form http://HOST:PORT, the port from 1",
        ),
        ({"instances": ["http://10.0.0.1:0"]}, "http://HOST:PORT, the port from 1 to 65535"),
        ({"instances": ["http://[::1"]}, "http://HOST:PORT"),
    ],
)
def test_a_contradiction_is_refused_where_it_stands(values, said):
    with pytest.raises(ConfigFileError) as raised:
        load_config(None, values)
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "values",
    [
        ONE | {"gateway": {"port": 0, "admin_port": 0}},
        ONE | {"gateway": {"port": 8081, "host": "10.0.0.1", "admin_host": "10.0.0.2"}},
        ONE | {"gateway": {"port": 8080, "count": 3}},
        {"instances": ["http://127.0.0.1:8000", "http://127.0.0.2:8000", "http://[::1]:8000"]},
        {"instances": [{"url": f"http://10.0.0.{host}:1", "kv_events": EVENTS} for host in (1, 2)]},
        pools(a={"vllm": {"model": "m"}}, b={"vllm": {"model": "m", "engine_args": ["--served-model-name=n"]}}),
        ONE | pools(b={"instances": [A]}),
        {"instances": [f"{A}@0..1", f"{A}@2..3"]},
        {"instances": [{"url": f"{A}@0..1", "kv_events": EVENTS | {"replay_endpoint": "tcp://*:5567"}}]},
        {"vllm": {"model": "sim"}, "simulate": {"count": 0}, "pools": {"b": {"simulate": {"count": 1, "model": "b"}}}},
    ],
)
def test_what_only_looks_alike_is_taken(values):
    load_config(None, values)


def test_all_contradictions_are_named_at_once():
    values = pools(a=ONE, b=ONE) | {"gateway": {"port": 8081}, "instances": [A, A]}
    with pytest.raises(ConfigFileError) as raised:
        load_config(None, values)
    assert len(str(raised.value).splitlines()) == 3


def test_files_of_keys_are_looked_at_here_and_not_for_another_machine(tmp_path):
    values = ONE | {"gateway": {"admin_token_file": str(tmp_path / "token"), "api_keys_file": str(tmp_path / "keys")}}
    with pytest.raises(ConfigFileError) as raised:
        load_config(None, values)
    assert [line.split(": ")[0] for line in str(raised.value).splitlines()] == [
        "gateway.admin_token_file",
        "gateway.api_keys_file",
    ]
    assert load_config(None, values, elsewhere=True).gateway.admin_token_file == tmp_path / "token"


@pytest.mark.parametrize(
    ("scaling", "scheduler", "seconds"),
    [
        (None, {}, None),
        ({"min_replicas": 1}, {}, None),
        ({"min_replicas": 0}, {}, 300.0),
        ({"min_replicas": 0}, {"cold_start_timeout_s": 0}, 0.0),
        (None, {"cold_start_timeout_s": 9}, 9.0),
    ],
)
def test_requests_wait_for_an_instance_where_none_may_be_there_unless_it_is_said(scaling, scheduler, seconds):
    pool = {"instances": [A], "scaling": scaling, "scheduler": scheduler}
    config = load_config(None, pool | pools(b=pool | {"instances": ["http://10.0.0.2:8000"]}))
    assert [p.scheduler.cold_start_timeout_s for p in config.all_pools().values()] == [seconds, seconds]


def test_servers_of_ours_may_all_be_started_later():
    vllm = {"model": "m", "replicas": 0, "executable": "true"}
    config = load_config(None, {"vllm": vllm, "scaling": {"min_replicas": 0}})
    assert own_specs(config) == []
    assert scaled_spec(config, "", 0.0, "vllm-0").spec.capacity.weight == 1.0
