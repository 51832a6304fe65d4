"""Streams of a real vLLM server come through the gateway as the server sends them. Its operator wants clients to have
`usage`, whatever they ask for."""

import json
import urllib.request
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest

from tests.conftest import WAIT_S
from tests.deployment import Deployment
from tests.vllm.conftest import START_TIMEOUT_S, VllmServer

pytestmark = pytest.mark.vllm

ASKED: dict[str, Any] = {"model": "tiny", "stream": True, "temperature": 0, "ignore_eos": True}
USER = [{"role": "user", "content": "What is a gateway?"}]
SAMPLING = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
STREAMS = {
    "/v1/chat/completions": {"messages": USER, "max_tokens": 12},
    "/v1/completions": {"prompt": "A gateway is", "max_tokens": 12},
    "/v1/responses": {"input": "What is a gateway?", "max_output_tokens": 12},
    "/v1/messages": {"messages": USER, "max_tokens": 12},
    "/inference/v1/generate": {"token_ids": [5, 6, 7, 8], "sampling_params": SAMPLING},
}


@pytest.fixture(scope="module")
def server(template_servers: dict[str, VllmServer]) -> Iterator[VllmServer]:
    yield template_servers["texts"]
    for server in template_servers.values():
        server.stop()


@pytest.fixture(scope="module")
def deployment(server, tmp_path_factory) -> Iterator[Deployment]:
    deployment = Deployment("--instance", server.url, directory=tmp_path_factory.mktemp("deployment"))
    try:
        deployment.await_started(START_TIMEOUT_S)
        yield deployment
    finally:
        deployment.clean_up()


def events(url: str, body: dict[str, Any]) -> list[tuple[str, Any]]:
    """Names and contents of the stream's events."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = answer.read().decode()
    found = []
    for event in text.removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.split("\n"))
        data = fields["data"]
        found.append((fields.get("event", ""), json.loads(data) if data.startswith("{") else data))
    return found


def seen(found: list[tuple[str, Any]]) -> tuple[list[Any], str, list[bool]]:
    """What a client makes of a stream: kinds of events in their order, the text, and where `usage` is. Tokens that come
    together share an event or do not."""
    kinds = []
    text = ""
    for name, content in found:
        if isinstance(content, str):
            kinds.append((content,))
            continue
        kinds.append((name, *sorted(content), bool(content.get("usage")), bool(content.get("choices"))))
        delta = content.get("delta")
        text += delta if isinstance(delta, str) else (delta or {}).get("text", "")
        for choice in content.get("choices", ()):
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            text += "".join(f" {token}" for token in choice.get("token_ids") or ())
    usage = [bool(content.get("usage")) for _, content in found if isinstance(content, dict)]
    return [kind for kind, _ in groupby(kinds)], text, usage


@pytest.mark.parametrize("path", STREAMS)
def test_a_stream_is_what_the_server_sends(server, deployment, path):
    body = ASKED | STREAMS[path]
    kinds, text, _ = seen(events(f"http://127.0.0.1:{deployment.port}{path}", body))
    assert (kinds, text) == seen(events(server.url + path, body))[:2]
    assert text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_usage_that_the_operator_forces_is_shown(deployment, path):
    body = ASKED | STREAMS[path]
    *_, usage = seen(events(f"http://127.0.0.1:{deployment.port}{path}", body))
    assert len(usage) > 1
    assert all(usage)


def test_the_gateway_reads_usage_of_every_api(deployment):
    def prompt_tokens() -> float:
        lines = deployment.metrics().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("dualmap_prompt_tokens_total"))

    for path, options in STREAMS.items():
        before = prompt_tokens()
        events(f"http://127.0.0.1:{deployment.port}{path}", ASKED | options)
        assert prompt_tokens() > before, path
