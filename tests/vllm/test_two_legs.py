"""Prefill on one real vLLM server, decoding on another, by NixlConnector on the CPU: greedy answers are those of one
server, and what the servers say of the transfer is what simulated instances say."""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import await_that
from tests.deployment import Deployment, deployed, free_port
from tests.vllm.conftest import ROOT, VllmServer, served

pytestmark = pytest.mark.vllm

NIXL = ROOT / ".venv-nixl"
RECORDED = json.loads((ROOT / "tests" / "instances" / "simulated" / "two_legs.json").read_text())
ASKED = RECORDED["prefill"]["request"]["kv_transfer_params"]
PROMPT = "The quick brown fox jumps over the lazy dog. " * 10
GREEDY = {"model": "tiny", "temperature": 0, "ignore_eos": True, "repetition_penalty": 1.8}  # each token is another one
COMPLETION = ("/v1/completions", GREEDY | {"prompt": PROMPT})
CHAT = ("/v1/chat/completions", GREEDY | {"messages": [{"role": "user", "content": PROMPT}]})
TOKENS = 16
LOADED = r"^vllm:external_prefix_cache_hits_total\S* (\S+)$"


class NixlServer(VllmServer):
    """role: vLLM's own word for it."""

    def __init__(self, log_path: Path, role: str) -> None:
        transfer = {"kv_connector": "NixlConnector", "kv_role": role, "kv_buffer_device": "cpu"}
        env = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port())}
        super().__init__(log_path, "--kv-transfer-config", json.dumps(transfer), env=env | {"PYTHONPATH": str(NIXL)})

    def answer(self, path: str, body: dict[str, Any], max_tokens: int, params: Any = None) -> dict[str, Any]:
        status, answer = self.post(path, body | {"max_tokens": max_tokens, "kv_transfer_params": params})
        assert status == 200, answer
        return answer

    def loaded_tokens(self) -> float:
        """Tokens of prompts that it has read from another server."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            return sum(float(value) for value in re.findall(LOADED, answer.read().decode(), re.MULTILINE))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NixlServer, NixlServer]]:
    """One that prefills and one that decodes."""
    if not NIXL.exists():
        pytest.skip(f"{NIXL} is missing: make nixl")
    directory = tmp_path_factory.mktemp("nixl")
    prefill = NixlServer(directory / "prefill.log", "kv_producer")
    decode = NixlServer(directory / "decode.log", "kv_consumer")
    with served(prefill, decode):
        yield prefill, decode


@pytest.mark.parametrize(("path", "body"), [COMPLETION, CHAT], ids=["completion", "chat"])
def test_two_legs_answer_as_one_server_does(pair, path: str, body: dict[str, Any]) -> None:
    prefill, decode = pair
    params = prefill.answer(path, body, 1, ASKED)["kv_transfer_params"]
    recorded = RECORDED["prefill"]["answer"]["kv_transfer_params"]
    assert {name: type(value) for name, value in params.items()} == {n: type(value) for n, value in recorded.items()}
    loaded = decode.loaded_tokens()
    answer = decode.answer(path, body, TOKENS, params)
    assert 0 < decode.loaded_tokens() - loaded <= answer["usage"]["prompt_tokens"]
    alone = prefill.answer(path, body, TOKENS)
    assert answer["choices"] == alone["choices"]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == params["remote_prefill_cached_tokens"]
    assert answer["kv_transfer_params"] is None


def test_a_prompt_that_cannot_be_read_is_an_error(pair) -> None:
    _, decode = pair
    path, body = COMPLETION
    lent = RECORDED["decode"]["request"]["kv_transfer_params"] | {"remote_port": free_port()}
    status, answer = decode.post(path, body | {"prompt": "Wolves. " * 50, "kv_transfer_params": lent})
    assert (status, json.loads(answer)) == (RECORDED["cannot be read"]["status"], RECORDED["cannot be read"]["answer"])


@pytest.fixture
def deployment(pair, tmp_path) -> Iterator[Deployment]:
    prefill, decode = pair
    with deployed("--prefill", prefill.url, "--decode", decode.url, directory=tmp_path) as deployment:
        await_that(lambda: deployment.ready_count() == 2, "both servers are ready")
        yield deployment


@pytest.mark.parametrize("stream", [False, True])
def test_the_gateway_answers_in_two_legs_as_one_server_does(pair, deployment, stream: bool) -> None:
    prefill, decode = pair
    messages = [{"role": "user", "content": f"{stream}: {PROMPT * 12}"}]
    loaded = decode.loaded_tokens()
    fields = {name: GREEDY[name] for name in ("ignore_eos", "repetition_penalty")}
    raw = deployment.client().chat.completions.with_raw_response.create(
        model="tiny", messages=messages, temperature=0, max_tokens=TOKENS, stream=stream, extra_body=fields
    )
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices)
    else:
        text = raw.parse().choices[0].message.content
    assert decode.loaded_tokens() > loaded
    addresses = (raw.headers["x-dualmap-prefill-instance"], raw.headers["x-dualmap-instance"])
    assert addresses == (f"127.0.0.1:{prefill.port}", f"127.0.0.1:{decode.port}")
    alone = prefill.answer("/v1/chat/completions", GREEDY | {"messages": messages}, TOKENS)
    assert text == alone["choices"][0]["message"]["content"]


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
