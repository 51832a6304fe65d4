"""LoRA adapters that are loaded and unloaded while the simulated server runs."""

import json
from typing import Any

import pytest

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
def own(start_sim) -> Any:
    return start_sim("--prefill-tokens-per-s", "1000000", "--lora", "first")


def names(sim: Any) -> dict[str, str]:
    """Of what is served, with where it lies."""
    return {card["id"]: card["root"] for card in json.loads(sim.request("GET", "/v1/models")[2])["data"]}


def test_an_adapter_comes_and_goes(own) -> None:
    status, _, text = own.request("POST", LOAD, {"lora_name": "sql", "lora_path": "/adapters/sql"})
    assert (status, text) == (200, b"Success: LoRA adapter 'sql' added successfully.")
    assert names(own) == {"sim": "sim", "first": "first", "sql": "/adapters/sql"}
    assert own.complete("a prompt", model="sql")["model"] == "sql"
    status, _, text = own.request("POST", UNLOAD, {"lora_name": "sql"})
    assert (status, text) == (200, b"Success: LoRA adapter 'sql' removed successfully.")
    assert names(own) == {"sim": "sim", "first": "first"}
    assert own.post("/v1/completions", {"model": "sql", "prompt": "a prompt"})[0] == 404


def test_a_model_has_all_the_names_it_is_served_by_and_answers_with_the_first(start_sim) -> None:
    sim = start_sim("--model", "/models/qwen-7b", "--served-model-name", "qwen", "qwen-7b", "--lora", "sql")
    assert names(sim) == {"qwen": "/models/qwen-7b", "qwen-7b": "/models/qwen-7b", "sql": "sql"}
    for name in ("qwen", "qwen-7b"):
        assert sim.complete("a prompt", model=name)["model"] == "qwen"
    status, answer = sim.post("/v1/completions", {"model": "/models/qwen-7b", "prompt": "a prompt"})
    assert (status, answer["error"]["message"]) == (404, "The model `/models/qwen-7b` does not exist.")
    status, answer = sim.post(LOAD, {"lora_name": "qwen-7b", "lora_path": "x"})
    assert (status, answer["error"]["type"]) == (400, "InvalidUserInput")


def test_an_adapter_is_replaced_only_if_asked_for(own) -> None:
    again = {"lora_name": "first", "lora_path": "/adapters/other"}
    status, answer = own.post(LOAD, again)
    assert (status, answer["error"]["type"]) == (400, "InvalidUserInput")
    assert "has already been loaded" in answer["error"]["message"]
    assert own.request("POST", LOAD, again | {"load_inplace": True})[0] == 200
    assert names(own)["first"] == "/adapters/other"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (LOAD, {"lora_name": "sim", "lora_path": "x"}, 400),
        (LOAD, {"lora_name": "a"}, 400),
        (UNLOAD, {"lora_name": ""}, 400),
        (UNLOAD, {"lora_name": "none"}, 404),
    ],
)
def test_what_cannot_be_is_refused(sim, path: str, body: dict[str, str], status: int) -> None:
    assert sim.post(path, body)[0] == status
