"""Reading a deployment file: lines, keys that stand twice, variables of the environment, and what is never shown."""

import pytest

from dualmap.router.config.load import ConfigFileError, load_config


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("PORT", "8090")
    monkeypatch.setenv("MODEL", "0123")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)

    def read(text: str, **given):
        path = tmp_path / "dualmap.yaml"
        path.write_text(text)
        return load_config(path, given)

    return read


def complaint(load, text: str, **given) -> str:
    with pytest.raises(ConfigFileError) as raised:
        load(text, **given)
    return str(raised.value).replace("\n", " | ")


ONE = "simulate: {count: 1}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("gateway: {port: '${PORT}'}", lambda config: config.gateway.port == 8090),
        ("gateway:\n  port: ${PORT}", lambda config: config.gateway.port == 8090),
        ("gateway: {drain_s: '1${EMPTY}2'}", lambda config: config.gateway.drain_s == 12.0),
        (
            "pools: {a: {simulate: {count: 1, model: '${MODEL}'}}}",
            lambda config: config.pools["a"].simulate.model == "0123",
        ),
        ("instances: ['http://10.0.0.1:${PORT}']", lambda config: config.instances[0].id == "10.0.0.1:8090"),
        ("logs: {level: '${EMPTY}info'}", lambda config: config.logs.level == "info"),
        ("ray_address: $${PORT}", lambda config: config.ray_address == "${PORT}"),
        ("ray_address: $PORT", lambda config: config.ray_address == "$PORT"),
    ],
)
def test_a_variable_of_the_environment_stands_for_its_value(load, text, value):
    assert value(load(ONE + text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gateway: {port: '${UNSET}'}", "line 2: gateway.port: the environment variable UNSET is not set"),
        ("instances: ['http://${UNSET}:1']", "line 2: instances.0: the environment variable UNSET is not set"),
        ("logs: {level: '${PORT:-info}'}", "logs.level: a variable is written ${NAME}, and a ${ that is none $${"),
        ("gateway: {port: '${MODEL}x'}", "line 2: gateway.port: Input should be a valid integer"),
        (
            "gateway:\n  port: 1\n  host: a\n  port: 2",
            "line 5: gateway.port: stands twice, for the first time on line 3",
        ),
        ("simulate: {count: 2}", "line 2: simulate: stands twice, for the first time on line 1"),
        ("pools:\n  a: {simulate: {count: 1}}\n  a: {}", "line 4: pools.a: stands twice, for the first time on line 3"),
        ("gateway: {port: 1, port: 1}", "line 2: gateway.port: stands twice, for the first time on line 2"),
        ("gateway:\n  host: a\n  prot: 2", "line 4: gateway.prot: unknown key; did you mean port?, not 2"),
    ],
)
def test_what_is_wrong_is_found_at_its_line(load, text, said):
    assert said in complaint(load, ONE + text)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("simulate: {cuont: 2}", "count"),
        ("scheduler: {tpot: 1}", "tpot_slo_s"),
        ("ttft_slo_s: 2", "scheduler.ttft_slo_s"),
        ("pools: {a: {schedular: {}}}", "scheduler"),
        ("pools: {a: {scheduler: {polcy: x}}}", "policy"),
        ("instances: [{url: 'http://a:1', kv_event: {}}]", "kv_events"),
        ("instances: [{url: 'http://a:1', capacity: {wieght: 1}}]", "weight"),
        ("discovery: {kubernetes: {label_selector: a=b, ports: 1}}", "port"),
        ("limits: {max_body: 1}", "max_body_bytes"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_known_one(load, text, near):
    assert f"unknown key; did you mean {near}?" in complaint(load, text)


def test_a_key_that_is_near_nothing_comes_without_a_guess(load):
    assert "xyzzy: unknown key, not 1" in complaint(load, "xyzzy: 1")


@pytest.mark.parametrize("merged", ["*a", "{simulate: {count: 3}}"])
def test_a_key_may_be_merged_and_set_again(load, merged):
    config = load(
        f"pools:\n  a: &a {{simulate: {{count: 1}}}}\n  b: {{<<: {merged}, simulate: {{count: 2, model: b}}}}"
    )
    assert [pool.simulate.count for pool in config.pools.values()] == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "gateway: {admin_token: hunter2}",
        "gateway: {admin_token_file: hunter2}",
        "gateway: {instance_key_file: hunter2}",
        "gateway: {api_keys: [hunter2]}",
        "gateway: {api_keys_file: [hunter2]}",
        "gateway: [{password: hunter2}]",
        "vllm: {model: m, env: {HF_TOKEN: [hunter2]}}",
        "vllm: {model: m, env: hunter2}",
        "vllm: {model: m, engine_args: {api-key: hunter2}}",
        "instances: ['http://user:hunter2@10.0.0.1:8000']",
        "instances: [{url: 'http://hunter2@10.0.0.1:8000'}]",
        "instances: [{urll: 'http://user:hunter2@10.0.0.1:8000'}]",
        "gateway: {admin_token: 'hunter2}",
        "hunter2: [",
        "gateway: {port: '${SECRET}'}",
        "pools: {a: {api_key: hunter2}}",
        "gateway: {adminToken: hunter2}",
        "gateway: {admin_token: *hunter2}",
        "gateway: {admin_token: !hunter2 x}",
        "instances: ['http://user:hunter2']",
        "instances: ['http://[hunter2]']",
    ],
)
def test_no_secret_is_shown(load, monkeypatch, text):
    monkeypatch.setenv("SECRET", "hunter2")
    assert "hunter2" not in complaint(load, text).split("dualmap.yaml", 1)[1]


def test_what_a_flag_says_is_not_blamed_on_the_file(load):
    said = complaint(load, "simulate: {count: 1}\ngateway: {port: 1, prot: 2}", gateway={"port": 70000})
    assert "dualmap.yaml, line 2: gateway.prot" in said
    assert "| gateway.port" in said or said.startswith("gateway.port")
