"""Streams that wait long for their first token: each client reads on through the comments that keep it open."""

import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from tests.clients.client_process import CLIENTS, need
from tests.clients.conftest import clients
from tests.clients.fleet_alone import Alone, alone
from tests.conftest import WAIT_S

pytestmark = [pytest.mark.clients, pytest.mark.xdist_group("heartbeats")]

CONFIG = """
gateway: {heartbeat_s: 0.1}
limits: {sweep_interval_s: 0.05}
"""
TOKENS_PER_S = 4000
TOKEN = "word"
SOON = {"x-dualmap-timeout-ms": "500"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    config = tmp_path_factory.mktemp("slow") / "dualmap.yaml"
    config.write_text(CONFIG)
    with alone(1, str(config), prefill_tokens_per_s=TOKENS_PER_S) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def start_client(fleet: Alone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable]:
    with clients(fleet.url, "none", tmp_path_factory.mktemp("clients")) as client:
        yield client


def prompt_of(seconds: float, name: str) -> str:
    """Its prefill takes so long."""
    return f"{name} " + TOKEN * int(seconds * TOKENS_PER_S)


def test_comments_come_before_the_first_token(fleet):
    body = {"model": "sim", "stream": True, "max_tokens": 4}
    body["messages"] = [{"role": "user", "content": prompt_of(1, "raw")}]
    content = json.dumps(body).encode(), {"content-type": "application/json"}
    request = urllib.request.Request(f"{fleet.url}/v1/chat/completions", *content)
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        lines = answer.read().splitlines()
    assert lines[0].startswith(b":")
    assert b"data: [DONE]" in lines


@pytest.mark.parametrize(
    ("script", "call", "options"),
    [
        ("openai_calls.py", "chat_stream", {}),
        ("responses_calls.py", "stream", {}),
        ("anthropic_calls.py", "stream", {}),
        ("litellm_calls.py", "both", {"provider": "hosted_vllm"}),
        ("litellm_calls.py", "both", {"provider": "anthropic"}),
        ("langchain_calls.py", "both", {}),
        ("langchain_calls.py", "both", {"responses": True}),
        ("sdk_calls.mjs", "chat", {}),
        ("sdk_calls.mjs", "messages", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_a_client_reads_on_through_comments(start_client, script, call, options):
    if script.endswith(".mjs"):
        need(CLIENTS / "node_modules")
        if shutil.which("node") is None:
            pytest.skip("there is no node")
    answer = start_client(script)(call, text=prompt_of(1, f"{script} {call} {options}"), **options)
    assert answer.get("streamed", answer.get("text"))
    if "whole" in answer:
        assert answer["streamed"] == answer["whole"]


@pytest.mark.parametrize("script", ["openai_calls.py", "anthropic_calls.py"])
def test_what_fails_after_comments_is_raised(start_client, script):
    error = start_client(script)("stream_error", text=prompt_of(3, script), headers=SOON)
    assert error["class"].endswith("Error")
    assert "time-out" in error["message"]
