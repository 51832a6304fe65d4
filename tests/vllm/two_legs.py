"""Pairs of real vLLM servers that answer in two legs, and requests of each API that vLLM takes in two legs."""

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import await_that
from tests.deployment import Deployment, deployed
from tests.vllm.conftest import VllmServer, post

PROMPT = "The quick brown fox jumps over the lazy dog. " * 10
GREEDY = {"model": "tiny", "temperature": 0, "ignore_eos": True, "repetition_penalty": 1.8}  # each token is another one
TOKENS = 16
LOADED = r"^vllm:external_prefix_cache_hits_total\S* (\S+)$"
HELD = r"^vllm:kv_cache_usage_perc\S* (\S+)$"


class TransferServer(VllmServer):
    """role: vLLM's own word for it. extra: of --kv-transfer-config."""

    def __init__(self, log_path: Path, connector: str, role: str, env: dict[str, str], **extra: Any) -> None:
        transfer = {"kv_connector": connector, "kv_role": role} | extra
        flags = ("--enable-scale-out", "--kv-transfer-config", json.dumps(transfer))
        super().__init__(log_path, *flags, env=env | {"VLLM_ENABLE_RESPONSES_API_STORE": "1"})

    def answer(self, api: "LegApi", text: str, most: int, params: Any = None) -> dict[str, Any]:
        status, answer = self.post(api.path, api.body(text, most) | {"kv_transfer_params": params})
        assert status == 200, answer
        return answer

    def loaded_tokens(self) -> float:
        """Tokens of prompts that it has read from another server."""
        return self._sum(LOADED)

    def held(self) -> float:
        """Share of its KV pool that is not free."""
        return self._sum(HELD)

    def _sum(self, sample: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as answer:
            return sum(float(value) for value in re.findall(sample, answer.read().decode(), re.MULTILINE))


class LegApi(NamedTuple):
    """most: the field that says how long answers are."""

    path: str
    most: str = "max_tokens"

    def body(self, text: str, most: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": text}]
        match self.path:
            case "/v1/completions":
                body: dict[str, Any] = GREEDY | {"prompt": text}
            case "/v1/responses":
                body = GREEDY | {"input": text, "store": False}
            case "/v1/messages":
                body = {"model": "tiny", "temperature": 0, "messages": messages}
            case "/inference/v1/generate":
                sampling = {name: GREEDY[name] for name in ("temperature", "ignore_eos", "repetition_penalty")}
                ids = [3 + byte for byte in text.encode()]
                return {"token_ids": ids, "sampling_params": sampling | {"max_tokens": most}}
            case _:
                body = GREEDY | {"messages": messages}
        return body | {self.most: most}

    def said(self, answer: dict[str, Any]) -> Any:
        """All of it but ids and times."""
        match self.path:
            case "/v1/messages":
                return answer["content"], answer["stop_reason"]
            case "/v1/responses":
                return answer["output"][0]["content"]
            case _:
                return answer["choices"]


APIS = {
    "completions": LegApi("/v1/completions"),
    "chats": LegApi("/v1/chat/completions"),
    "messages": LegApi("/v1/messages"),
    "responses": LegApi("/v1/responses", "max_output_tokens"),
    "generate": LegApi("/inference/v1/generate"),
}


@contextmanager
def gateway(prefill: VllmServer, decode: VllmServer, directory: Path, **kv_transfer: Any) -> Iterator[Deployment]:
    instances = [{"url": prefill.url, "role": "prefill"}, {"url": decode.url, "role": "decode"}]
    always = {"min_prefill_leg_tokens": 512}  # whether it pays or not, for so small a model
    config = json.dumps({"instances": instances, "kv_transfer": kv_transfer, "scheduler": always})
    with deployed(directory=directory, config=config) as deployment:
        await_that(lambda: deployment.ready_count() == 2, "both servers are ready")
        yield deployment


def check_gateway(prefill: TransferServer, decode: TransferServer, deployment: Deployment, api: LegApi) -> None:
    """Through the gateway an answer is that of one server, and the prompt was read from the other; in a stream, too.
    Cached tokens are those of who has computed it."""
    text = f"{api.path} {PROMPT * 12}"
    loaded = decode.loaded_tokens()
    status, answer = post(f"http://127.0.0.1:{deployment.port}{api.path}", api.body(text, TOKENS))
    assert status == 200, answer
    assert decode.loaded_tokens() > loaded
    assert api.said(answer) == api.said(prefill.answer(api, text, TOKENS))
    assert 2 * cached_of(json.dumps(answer)) < len(text) / 5, "the prompt was new to both"
    loaded = decode.loaded_tokens()
    body = api.body(f"Streamed: {text}", TOKENS) | {"stream": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{deployment.port}{api.path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as stream:
        events = stream.read().decode()
        assert stream.headers["x-dualmap-prefill-instance"] == f"127.0.0.1:{prefill.port}"
    assert decode.loaded_tokens() > loaded
    assert "error" not in events


def cached_of(answer: str) -> int:
    """As its usage says; 0 where it does not."""
    found = re.findall(r'"(?:cached_tokens|cache_read_input_tokens)": (\d+)', answer)
    return int(found[-1]) if found else 0
