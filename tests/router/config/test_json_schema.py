"""The schema that editors read: it takes what `dualmap up` takes, and every key says what it means."""

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.json_schema import json_schema

EXAMPLE = Path(__file__).parents[3] / "deploy" / "dualmap.yaml"
SCHEMA = json_schema()


def complaints(values: dict) -> list[str]:
    Draft202012Validator.check_schema(SCHEMA)
    return [error.json_path for error in Draft202012Validator(SCHEMA).iter_errors(values)]


@pytest.mark.parametrize(
    "values",
    [
        yaml.safe_load(EXAMPLE.read_text()),
        {"instances": ["http://a:1", {"url": "http://b:1", "capacity": {"weight": 2}, "kv_events": {"topic": "kv"}}]},
        {"vllm": {"model": "m", "engine_args": "--seed 1", "env": {"A": "b"}, "gpus_per_replica": None}},
        {"vllm": {"model": "m", "engine_args": ["--seed", "1"]}},
        {"gateway": {"port": "${PORT}", "ask_for_usage": "${USAGE}"}, "logs": {"level": "${LEVEL}"}},
        {"pools": {"coder": {"simulate": {"count": 1}, "scheduler": {"ttft_slo_s": "${SLO_S}"}}}},
        {"discovery": {"kubernetes": {"label_selector": "app=vllm"}}, "traces": {"sample": 0.1}},
    ],
)
def test_the_schema_takes_a_right_file(values):
    assert complaints(values) == []


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"gateway": {"prot": 1}}, "$.gateway"),
        ({"gateway": {"port": 70000}}, "$.gateway.port"),
        ({"gateway": {"port": "PORT"}}, "$.gateway.port"),
        ({"logs": {"level": "loud"}}, "$.logs.level"),
        ({"scheduler": {"polcy": "x"}}, "$.scheduler"),
        ({"instances": [5]}, "$.instances[0]"),
        ({"pools": {"a": {"gateway": {}}}}, "$.pools.a"),
        ({"models": {}}, "$"),
    ],
)
def test_the_schema_refuses_a_wrong_file(values, place):
    assert complaints(values) == [place]


@pytest.mark.parametrize("section", ["", *SCHEMA["$defs"]])
def test_every_key_has_a_meaning_a_unit_and_a_default_or_is_required(section):
    about = SCHEMA["$defs"][section] if section else SCHEMA
    for key, said in about.get("properties", {}).items():
        below = said.get("$ref", "").rpartition("/")[2]
        meaning = said.get("description") or SCHEMA["$defs"][below]["description"]
        assert "None" not in meaning
        assert "default" in said or key in about["required"]
        if key.endswith(("_s", "_tokens", "_bytes")):
            assert said["title"].startswith(f"{key}, ")


def test_defaults_are_those_of_the_program():
    gateway = DualMapConfig.model_fields["gateway"].default
    described = SCHEMA["$defs"]["GatewaySettings"]["properties"]
    assert {name: about["default"] for name, about in described.items()} == gateway.model_dump()
