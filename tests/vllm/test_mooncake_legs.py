"""Prefill on one real vLLM server, decoding on another, by MooncakeConnector over TCP on the CPU: one leg after the
other, and what the servers do where there is nothing to read."""

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import await_that
from tests.deployment import Deployment, free_port
from tests.vllm.conftest import ROOT, served
from tests.vllm.two_legs import APIS, PROMPT, TOKENS, LegApi, TransferServer, check_gateway, gateway

pytestmark = pytest.mark.vllm

MOONCAKE = ROOT / ".venv-mooncake"
ON_CPU = ROOT / "deploy" / "vllm-cpu" / "mooncake_on_cpu"
WAIT_S = 15  # for which prompts and readers wait; legs on a busy machine come sooner
BOOTSTRAP_PORT = free_port()
ENV = {
    "PYTHONPATH": f"{MOONCAKE}:{ON_CPU}",
    "LD_LIBRARY_PATH": str(MOONCAKE / "lib"),
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_MOONCAKE_BOOTSTRAP_PORT": str(BOOTSTRAP_PORT),
    "VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT": str(WAIT_S),
}
BY_TCP = {"kv_connector_extra_config": {"mooncake_protocol": "tcp"}}
INTERNAL_ERROR = {"message": "Internal server error", "type": "InternalServerError", "param": None, "code": 500}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TransferServer, TransferServer]]:
    """One that prefills and one that decodes."""
    if not MOONCAKE.exists():
        pytest.skip(f"{MOONCAKE} is missing: make mooncake")
    directory = tmp_path_factory.mktemp("mooncake")
    prefill = TransferServer(directory / "prefill.log", "MooncakeConnector", "kv_producer", ENV, **BY_TCP)
    decode = TransferServer(directory / "decode.log", "MooncakeConnector", "kv_consumer", ENV, **BY_TCP)
    with served(prefill, decode):
        yield prefill, decode


def lend(transfer_id: str) -> dict[str, Any]:
    return {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": transfer_id}


def read(transfer_id: str, **other: Any) -> dict[str, Any]:
    address = f"http://127.0.0.1:{BOOTSTRAP_PORT}"
    with urllib.request.urlopen(f"{address}/query", timeout=10) as answer:
        engine_id = json.load(answer)["0"]["engine_id"]
    params = {"do_remote_prefill": True, "do_remote_decode": False, "transfer_id": transfer_id}
    return params | {"remote_bootstrap_addr": address, "remote_engine_id": engine_id} | other


@pytest.mark.parametrize("api", APIS.values(), ids=APIS)
def test_legs_one_after_the_other_answer_as_one_server_does(pair, api: LegApi) -> None:
    prefill, decode = pair
    first = prefill.answer(api, PROMPT, 1, lend(api.path))
    assert first.get("kv_transfer_params") is None
    assert prefill.held() > 0
    loaded = decode.loaded_tokens()
    answer = decode.answer(api, PROMPT, TOKENS, read(api.path))
    assert decode.loaded_tokens() > loaded
    assert prefill.held() == 0
    assert api.said(answer) == api.said(prefill.answer(api, PROMPT, TOKENS))


def test_what_stops_by_itself_is_not_kept_and_who_asks_for_it_waits_in_vain(pair) -> None:
    prefill, decode = pair
    body = {"model": "tiny", "temperature": 0, "prompt": "Wolves. " * 50, "max_tokens": 1}
    _, answer = prefill.post("/v1/completions", body | {"return_token_ids": True})
    stop = {"stop_token_ids": answer["choices"][0]["token_ids"]}
    _, answer = prefill.post("/v1/completions", body | stop | {"kv_transfer_params": lend("stops")})
    assert (answer["choices"][0]["finish_reason"], prefill.held()) == ("stop", 0)
    began = time.monotonic()
    status, answer = decode.post("/v1/completions", body | {"kv_transfer_params": read("stops")})
    assert (status, json.loads(answer)["error"]) == (500, INTERNAL_ERROR)
    assert time.monotonic() - began >= WAIT_S


def test_what_nobody_asks_for_is_kept_for_so_long(pair) -> None:
    prefill, _ = pair
    prefill.answer(APIS["completions"], "Bears. " * 50, 1, lend("late"))
    assert prefill.held() > 0
    await_that(lambda: prefill.held() == 0, "its time is over")


@pytest.mark.parametrize("other", [{"remote_engine_id": "a"}, {"remote_bootstrap_addr": "http://127.0.0.1:9"}])
def test_an_engine_that_is_not_found_is_an_error(pair, other: dict[str, Any]) -> None:
    body = APIS["completions"].body("Foxes. " * 50, TOKENS)
    status, answer = pair[1].post("/v1/completions", body | {"kv_transfer_params": read("none", **other)})
    assert (status, json.loads(answer)["error"]) == (500, INTERNAL_ERROR)


@pytest.fixture
def deployment(pair, tmp_path) -> Iterator[Deployment]:
    with gateway(*pair, tmp_path, connector="mooncake", bootstrap_port=BOOTSTRAP_PORT) as deployment:
        yield deployment


def test_the_gateway_answers_in_two_legs_as_one_server_does(pair, deployment) -> None:
    for api in APIS.values():
        check_gateway(*pair, deployment, api)
    assert pair[0].held() == 0
