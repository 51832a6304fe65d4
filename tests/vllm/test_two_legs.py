"""Prefill on one real vLLM server, decoding on another, by NixlConnector on the CPU: greedy answers are those of one
server, and what the servers say of the transfer is what simulated instances say."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import await_that
from tests.deployment import Deployment, deployed, free_port
from tests.vllm.conftest import ENV, FLAGS, ROOT, START_TIMEOUT_S, TINY, VLLM, served
from tests.vllm.two_legs import APIS, PROMPT, TOKENS, LegApi, TransferServer, check_gateway, gateway

pytestmark = pytest.mark.vllm

NIXL = ROOT / ".venv-nixl"
RECORDED = json.loads((ROOT / "tests" / "instances" / "simulated" / "two_legs.json").read_text())
ASKED = RECORDED["prefill"]["request"]["kv_transfer_params"]


def nixl_server(log_path: Path, role: str) -> TransferServer:
    env = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port())}
    return TransferServer(log_path, "NixlConnector", role, env | {"PYTHONPATH": str(NIXL)}, kv_buffer_device="cpu")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TransferServer, TransferServer]]:
    """One that prefills and one that decodes."""
    if not NIXL.exists():
        pytest.skip(f"{NIXL} is missing: make nixl")
    directory = tmp_path_factory.mktemp("nixl")
    prefill = nixl_server(directory / "prefill.log", "kv_producer")
    decode = nixl_server(directory / "decode.log", "kv_consumer")
    with served(prefill, decode):
        yield prefill, decode


@pytest.mark.parametrize("api", APIS.values(), ids=APIS)
def test_two_legs_answer_as_one_server_does(pair, api: LegApi) -> None:
    prefill, decode = pair
    params = prefill.answer(api, PROMPT, 1, ASKED)["kv_transfer_params"]
    recorded = RECORDED["prefill"]["answer"]["kv_transfer_params"]
    assert {name: type(value) for name, value in params.items()} == {n: type(value) for n, value in recorded.items()}
    loaded = decode.loaded_tokens()
    answer = decode.answer(api, PROMPT, TOKENS, params)
    assert decode.loaded_tokens() > loaded
    assert api.said(answer) == api.said(prefill.answer(api, PROMPT, TOKENS))
    assert answer.get("kv_transfer_params") is None


def test_a_prompt_that_cannot_be_read_is_an_error(pair) -> None:
    _, decode = pair
    body = APIS["completions"].body("Wolves. " * 50, TOKENS)
    lent = RECORDED["decode"]["request"]["kv_transfer_params"] | {"remote_port": free_port()}
    status, answer = decode.post("/v1/completions", body | {"kv_transfer_params": lent})
    assert (status, json.loads(answer)) == (RECORDED["cannot be read"]["status"], RECORDED["cannot be read"]["answer"])


@pytest.fixture
def deployment(pair, tmp_path) -> Iterator[Deployment]:
    with gateway(*pair, tmp_path) as deployment:
        yield deployment


def test_the_gateway_answers_in_two_legs_as_one_server_does(pair, deployment) -> None:
    for api in APIS.values():
        check_gateway(*pair, deployment, api)


def test_without_a_server_that_prefills_the_other_one_computes_prompts(pair, deployment) -> None:
    prefill, decode = pair

    def ask(text: str) -> str:
        """The instance that prefilled; empty where there was no such leg."""
        messages = [{"role": "user", "content": f"{text} {PROMPT * 12}"}]
        raw = deployment.client().chat.completions.with_raw_response.create(
            model="tiny", messages=messages, temperature=0, max_tokens=TOKENS, extra_body={"ignore_eos": True}
        )
        assert raw.parse().usage.completion_tokens == TOKENS
        return raw.headers.get("x-dualmap-prefill-instance", "")

    assert ask("Before.") == f"127.0.0.1:{prefill.port}"
    prefill.stop()
    for number in range(4):
        ask(f"{number} wolves.")
    await_that(lambda: deployment.ready_count() == 1, "the loss is noticed")
    assert ask("Afterwards.") == ""
    assert decode.alive


@pytest.mark.release  # others show each part of it
@pytest.mark.ray
def test_servers_that_dualmap_up_starts_for_a_role_hand_prompts_on(tmp_path: Path) -> None:
    if not NIXL.exists():
        pytest.skip(f"{NIXL} is missing: make nixl")
    config = {
        "vllm": {
            "model": str(TINY),
            "prefill": 1,
            "decode": 1,
            "executable": str(VLLM),
            "engine_args": FLAGS,
            "env": ENV | {"PYTHONPATH": str(NIXL)},
            "cpus_per_replica": 0.5,
            "start_timeout_s": 2 * START_TIMEOUT_S,
        },
        "scheduler": {"min_prefill_leg_tokens": 512},  # whether it pays or not, for so small a model
    }
    with deployed(directory=tmp_path, config=json.dumps(config), within_s=2 * START_TIMEOUT_S) as deployment:
        client = deployment.client()
        messages = [{"role": "user", "content": PROMPT * 8}]
        raw = client.chat.completions.with_raw_response.create(
            model="tiny", messages=messages, temperature=0, max_tokens=TOKENS, extra_body={"ignore_eos": True}
        )
        assert raw.parse().usage.completion_tokens == TOKENS
        assert raw.headers["x-dualmap-prefill-instance"] == "vllm-prefill-0"
        assert raw.headers["x-dualmap-instance"] == "vllm-decode-0"
        assert 'dualmap_prefill_handoffs_total{told="where"} 1.0' in deployment.metrics()
