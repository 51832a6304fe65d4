"""Configuration files as users write them, right and wrong."""

from pathlib import Path

import pytest

from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.scheduler.role import Role


def load(tmp_path, text: str, **overrides):
    path = tmp_path / "dualmap.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def test_one_instance_is_all_a_file_needs(tmp_path):
    config = load(tmp_path, "instances: [http://127.0.0.1:8001]")
    assert config.instances[0].id == "127.0.0.1:8001"
    assert config.scheduler.policy == "dualmap"


def test_an_instance_may_say_what_it_can_do(tmp_path):
    config = load(
        tmp_path,
        """
        instances:
          - url: http://127.0.0.1:8001
            capacity: {prefill_tokens_per_s: 12000, kv_tokens: 300000, weight: 2}
        """,
    )
    assert config.instances[0].capacity.prefill_tokens_per_s == 12000


def test_flags_override_the_file_key_by_key(tmp_path):
    text = "{simulate: {count: 2, model: m}, scheduler: {ttft_slo_s: 3}}"
    config = load(tmp_path, text, simulate={"count": 4}, scheduler={"policy": "round_robin"})
    assert (config.simulate.count, config.simulate.model) == (4, "m")
    assert (config.scheduler.policy, config.scheduler.ttft_slo_s) == ("round_robin", 3)


def test_a_journals_path_is_that_of_the_directory_the_command_runs_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load(tmp_path, "{simulate: {count: 1}, gateway: {port: 1}}", gateway={"journal": Path("a.jsonl")})
    assert config.gateway.journal == tmp_path / "a.jsonl"
    assert load(tmp_path, "simulate: {count: 1}").gateway.journal is None


def test_arguments_of_the_engine_are_split_as_a_shell_does(tmp_path):
    config = load(tmp_path, """{vllm: {model: m, engine_args: "--seed 1 --chat-template 'a b'"}}""")
    assert config.vllm.engine_args == ("--seed", "1", "--chat-template", "a b")
    assert load(tmp_path, "{vllm: {model: m, engine_args: [--seed, '1']}}").vllm.engine_args == ("--seed", "1")


def test_a_model_in_a_directory_here_is_meant_from_here_and_a_name_stays_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert load(tmp_path, "vllm: {model: mine}").vllm.model == str(tmp_path / "mine")
    assert load(tmp_path, "vllm: {model: Qwen/Qwen3-8B}").vllm.model == "Qwen/Qwen3-8B"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("simulate: {cuont: 2}", ["simulate.cuont", "unknown key", "2"]),
        ("scheduler: {polcy: x}", ["scheduler.polcy", "unknown key", "'x'"]),
        ("{simulate: {count: 1}, limits: {max_body: 1}}", ["limits.max_body", "unknown key"]),
        ("{simulate: {count: 1}, scheduler: {policy: best}}", ["scheduler", "policy must be one of", "'best'"]),
        ("{simulate: {count: 1}, scheduler: {ttft_slo_s: 0}}", ["scheduler", "ttft_slo_s must be greater than 0"]),
        ("{simulate: {count: 1}, gateway: {port: 70000}}", ["gateway.port", "65535", "70000"]),
        (
            "{simulate: {count: 1}, gateway: {admin_token_file: /no/such}}",
            ["gateway.admin_token_file", "cannot be read"],
        ),
        ("{simulate: {count: 1}, gateway: {journal_max_bytes: 0}}", ["gateway.journal_max_bytes", "greater than 0"]),
        ("{simulate: {count: many}}", ["simulate.count", "integer", "'many'"]),
        ("instances: ['ftp://127.0.0.1:1']", ["instances.0.url", "http://HOST:PORT"]),
        ("instances: [http://127.0.0.1:1, 'http://127.0.0.1:1']", ["named twice", "127.0.0.1:1"]),
        ("instances: [{url: 'http://127.0.0.1:1', capacity: {weight: 0}}]", ["capacity", "weight must be greater"]),
        ("{vllm: {replicas: 2}}", ["vllm.model is missing"]),
        ("{vllm: {model: m, replicas: 0}}", ["vllm.replicas: 0 is for pools", "min_replicas must be 0"]),
        ("{vllm: {model: m, engine_args: '--port 1'}}", ["vllm.engine_args", "--port is set by us"]),
        ("{vllm: {model: m, prefill: 2}}", ["vllm", "prefill and decode go together"]),
        ("{vllm: {model: m, replicas: 2, prefill: 2, decode: 2}}", ["vllm", "name them, or prefill and decode"]),
        ("{vllm: {model: m, prefill: 0, decode: 2}}", ["vllm.prefill.replicas", "greater than or equal to 1", "0"]),
        ("{simulate: {decode: 2}}", ["simulate", "prefill and decode go together"]),
        ("{simulate: {count: 1, prefill: 2, decode: 2}}", ["simulate", "name it, or prefill and decode"]),
        ("{simulate: {prefill: 2, decode: 2}, scaling: {max_replicas: 4}}", ["scaling.prefill", "are missing"]),
        ("{simulate: {count: 2}, scaling: {prefill: {}, decode: {}}}", ["instances that have these roles"]),
        ("{simulate: {count: 2}, scaling: {change_roles: true}}", ["scaling", "prefill and decode are missing"]),
        ("{simulate: {count: 2}, scaling: {prefill: {}}}", ["scaling", "prefill and decode go together"]),
        (
            "{simulate: {prefill: 1, decode: 1}, scaling: {prefill: {min_replicas: 0}, decode: {}}}",
            ["scaling.prefill", "min_replicas must be at least 1, not 0: each role needs"],
        ),
        (
            "{simulate: {prefill: 1, decode: 1}, scaling: {prefill: {min_replicas: 2, max_replicas: 1}, decode: {}}}",
            ["scaling.prefill", "max_replicas must be at least 2, as min_replicas is, not 1"],
        ),
        (
            "{simulate: {prefill: 1, decode: 1}, scaling: {max_replicas: 3, prefill: {}, decode: {}}}",
            ["scaling", "min_replicas and max_replicas are those of prefill and of decode"],
        ),
        ("discovery: {kubernetes: {label_selector: a=b, role_label: ''}}", ["role_label", "at least 1 character"]),
        ("discovery: {kubernetes: {label_selector: a=b, revision_label: ''}}", ["revision_label", "at least 1 char"]),
        ("{vllm: {model: m, gpus: 1}}", ["vllm.gpus", "unknown key"]),
        ("instances: [{url: 'http://127.0.0.1:1', kv_events: {endpont: x}}]", ["kv_events.endpont", "unknown key"]),
        ("instances: [{url: 'http://127.0.0.1:1', kv_events: {endpoint: 5557}}]", ["kv_events.endpoint", "string"]),
        ("instances: [{url: 'http://127.0.0.1:1', kv_events: {endpoint: 'h:1'}}]", ["kv_events.endpoint", "tcp://"]),
        ("{}", ["no instances"]),
        ("[1, 2]", ["must be a mapping", "list"]),
        ("a: [", ["dualmap.yaml", "line 1"]),
        ("simulate: {count: 1}\nmodels: {}", ["models", "unknown key"]),
    ],
)
def test_what_is_wrong_is_said_with_path_rule_and_value(tmp_path, text, parts):
    with pytest.raises(ConfigFileError) as raised:
        load(tmp_path, text)
    message = str(raised.value)
    assert str(tmp_path / "dualmap.yaml") in message
    for part in parts:
        assert part in message
    assert "Traceback" not in message


@pytest.mark.parametrize("change_roles", ["true", "false"])
def test_a_role_of_which_only_the_least_is_said_has_as_many_at_the_most(tmp_path, change_roles):
    bounds = f"change_roles: {change_roles}, prefill: {{min_replicas: 2}}, decode: {{}}"
    scaling = load(tmp_path, f"{{simulate: {{prefill: 6, decode: 2}}, scaling: {{{bounds}}}}}").scaling
    assert [scaling.of_role(role).most for role in (Role.PREFILL, Role.DECODE)] == [2, 1]


def test_every_mistake_is_named_at_once(tmp_path):
    with pytest.raises(ConfigFileError) as raised:
        load(tmp_path, "{gateway: {port: -1}, simulate: {count: x}, other: 1}")
    assert len(str(raised.value).splitlines()) == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigFileError, match=r"missing\.yaml"):
        load_config(tmp_path / "missing.yaml", {})


def test_the_example_shows_the_defaults():
    example = Path(__file__).parents[3] / "deploy" / "dualmap.yaml"
    shown = load_config(example, {})
    assert shown == load_config(None, {"simulate": {"count": 4}})
