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


@pytest.fixture(scope="module")
def gateway(pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """In front of the two."""
    instances = [{"url": server.url, "role": role} for server, role in zip(pair, ("prefill", "decode"), strict=True)]
    config = {"instances": instances, "scheduler": {"min_prefill_leg_tokens": 32}}
    with deployed(directory=tmp_path_factory.mktemp("gateway"), config=json.dumps(config)) as deployment:
        await_that(lambda: deployment.ready_count() == 2, "both servers are ready")
        yield deployment


def ask(gateway: Deployment, path: str, body: dict[str, Any]) -> tuple[Any, str]:
    """The answer's body, and the instance that prefilled; empty where there was no such leg."""
    data = json.dumps(body | {"max_tokens": TOKENS}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway.port}{path}", data, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read(), answer.headers["x-dualmap-prefill-instance"] or ""


@pytest.mark.parametrize(("path", "body"), [COMPLETION, CHAT], ids=["completion", "chat"])
@pytest.mark.parametrize("stream", [False, True])
def test_through_the_gateway_answers_are_those_of_one_server(pair, gateway, path, body, stream) -> None:
    prefill, decode = pair
    text = f"Through the gateway, {'as a stream' if stream else 'whole'}. {PROMPT}"
    body |= {"prompt": text} if "prompt" in body else {"messages": [{"role": "user", "content": text}]}
    loaded = decode.loaded_tokens()
    answer, prefilled_at = ask(gateway, path, body | ({"stream": True} if stream else {}))
    assert prefilled_at == f"127.0.0.1:{prefill.port}"
    assert decode.loaded_tokens() > loaded
    (alone,) = prefill.answer(path, body, TOKENS)["choices"]
    expected = alone["text"] if "text" in alone else alone["message"]["content"]
    if stream:
        events = [json.loads(line[6:]) for line in answer.split(b"\n\n") if line.startswith(b"data: {")]
        choices = [choice for event in events for choice in event["choices"]]
        told = "".join((c["text"] if "text" in c else c["delta"].get("content")) or "" for c in choices)
    else:
        (choice,) = json.loads(answer)["choices"]
        told = choice["text"] if "text" in choice else choice["message"]["content"]
    assert told == expected
    assert 'dualmap_prefill_handoffs_total{told="nothing"} 0.0' in gateway.metrics()
    again, prefilled_at = ask(gateway, path, body)
    assert (prefilled_at, json.loads(again)["choices"]) == ("", [alone]), "who decodes holds it by now"


def test_without_a_server_that_prefills_the_other_one_computes_prompts(pair, gateway) -> None:
    prefill, decode = pair
    path, body = COMPLETION
    prefill.stop()
    for number in range(4):
        answer, _ = ask(gateway, path, body | {"prompt": f"{number} wolves. {PROMPT}"})
        assert json.loads(answer)["usage"]["completion_tokens"] == TOKENS
    await_that(lambda: gateway.ready_count() == 1, "the loss is noticed")
    answer, prefilled_at = ask(gateway, path, body | {"prompt": f"No wolf. {PROMPT}"})
    assert prefilled_at == ""
    assert decode.alive
