"""The simulated server's connections: what comes when, and what becomes of requests whose client or server goes."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WAIT_S

LONG = {"prompt": "a text", "max_tokens": 100_000, "ignore_eos": True}
HEAD_END = b"\r\n\r\n"


def get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path


def post(content: dict[str, Any]) -> bytes:
    body = json.dumps(content).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def test_the_head_of_a_stream_comes_before_its_first_token(start_sim, receive) -> None:
    sim = start_sim("--prefill-tokens-per-s", "0.001")
    with sim.begin({"prompt": "a", "stream": True}) as connection:
        head = receive(connection, HEAD_END)
    assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream")
    assert head.endswith(HEAD_END)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_client_that_leaves_while_decoding_aborts_its_request(start_sim, receive, stream: bool) -> None:
    sim = start_sim("--prefill-tokens-per-s", "1000000")
    connection = sim.begin(LONG | {"stream": stream})
    sim.await_metric("vllm:num_requests_running", 1)
    if stream:
        receive(connection, b'"text"')
    connection.close()
    sim.await_metric("vllm:num_requests_running", 0)
    assert sim.metric("vllm:kv_cache_usage_perc") == 0
    assert sim.metric("vllm:request_success_total", finished_reason="abort") == 1


def test_clients_that_leave_while_waiting_or_prefilling_abort_their_requests(start_sim) -> None:
    sim = start_sim("--prefill-tokens-per-s", "0.001", "--max-num-seqs", "1")
    prefilling = sim.begin({"prompt": "a text", "stream": True})
    sim.await_metric("vllm:num_requests_running", 1)
    waiting = sim.begin({"prompt": ["one", "two"]})
    sim.await_metric("vllm:num_requests_waiting", 2)
    waiting.close()
    sim.await_metric("vllm:num_requests_waiting", 0)
    assert sim.metric("vllm:num_requests_running") == 1
    prefilling.close()
    sim.await_metric("vllm:num_requests_running", 0)
    assert sim.metric("vllm:request_success_total", finished_reason="abort") == 3


def test_an_abort_leaves_other_streams_as_they_are(sim, receive) -> None:
    with sim.begin(LONG | {"stream": True}) as leaving, sim.begin({"prompt": "b", "max_tokens": 20}) as staying:
        receive(leaving, b'"text"')
        leaving.close()
        answer = json.loads(receive(staying, b"}}}").partition(HEAD_END)[2])
    assert answer["usage"]["completion_tokens"] == 20
    sim.await_metric("vllm:num_requests_running", 0)


def test_pipelined_requests_are_answered_in_order_on_one_connection(sim, receive) -> None:
    requests = [post({"prompt": f"text {i}", "max_tokens": i + 1, "ignore_eos": True}) for i in range(3)]
    stream = post({"prompt": "text", "max_tokens": 2, "stream": True})
    last = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with sim.connect() as connection:
        connection.sendall(b"".join([*requests, stream, get(b"/v1/models"), last]))
        received = receive(connection)
    assert received.count(b"HTTP/1.1 200 OK") == 6
    marks = [b'"completion_tokens":%d' % (i + 1) for i in range(3)] + [
        b"[DONE]",
        b"max_model_len",
        b"connection: close",
    ]
    positions = [received.index(mark) for mark in marks]
    assert positions == sorted(positions)


def test_a_connection_is_kept_for_the_next_request(sim, receive) -> None:
    with sim.connect() as connection:
        for _ in range(3):
            connection.sendall(post({"prompt": "text", "max_tokens": 1, "stream": True}))
            assert receive(connection, b"0\r\n\r\n").endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_the_cache_is_flushed_only_when_nothing_runs(start_sim, receive) -> None:
    sim = start_sim("--prefill-tokens-per-s", "1000000")
    prompt = "word " * 50
    sim.complete(prompt)
    with sim.begin(LONG | {"stream": True}) as connection:
        receive(connection, b'"text"')
        assert sim.post("/reset_prefix_cache", b"") == (200, {"success": False})
        assert sim.complete(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"] == 48
    sim.await_metric("vllm:num_requests_running", 0)
    assert sim.post("/reset_prefix_cache", b"") == (200, {"success": True})
    assert sim.complete(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_ends_its_answers_with_abort(start_sim, receive, number: signal.Signals) -> None:
    sim = start_sim("--prefill-tokens-per-s", "1000", "--max-num-batched-tokens", "256")
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    decoding = sim.begin(LONG | usage)
    events = receive(decoding, b'"text"')
    whole = sim.begin(LONG)
    sim.await_metric("vllm:num_requests_running", 2)
    prefilling = sim.begin({"prompt": "x" * 400_000} | usage)
    sim.await_metric("vllm:num_requests_running", 3)
    sim.process.send_signal(number)
    events += receive(decoding)
    prefilled = receive(prefilling)
    answer = json.loads(receive(whole).partition(HEAD_END)[2])
    for stream in (events, prefilled):
        assert stream.count(b'"finish_reason":"abort"') == 1
        assert stream.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    tokens = events.count(b'"finish_reason":null')
    assert b'"completion_tokens":%d' % tokens in events
    assert b'"completion_tokens":0' in prefilled
    assert answer["choices"][0]["finish_reason"] == "abort"
    assert len(answer["choices"][0]["text"]) == 4 * answer["usage"]["completion_tokens"]
    assert sim.process.wait(timeout=WAIT_S) == 0
    for connection in (decoding, prefilling, whole):
        connection.close()


def test_a_client_that_leaves_before_its_request_is_in_the_engine_costs_the_engine_nothing(
    start_sim, tmp_path: Path
) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("api_s: 0.5")
    sim = start_sim("--profile", str(profile))
    sim.begin({"prompt": [1] * 100, "max_tokens": 4}).close()
    sim.await_metric("vllm:request_success_total", 1, finished_reason="abort")
    sim.complete([2] * 100)
    assert sim.metric("vllm:prompt_tokens_total") == 100


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        (
            "/v1/messages",
            {"model": "sim", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1000},
            b"message_stop",
        ),
        ("/v1/responses", {"input": "a"}, b"response.completed"),
        ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {}}, b"[DONE]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("at", ["prefilling", "decoding"])
def test_streams_of_all_apis_are_ended_by_a_server_that_ends(
    start_sim, receive, tmp_path: Path, path: str, body: dict[str, Any], end: bytes, at: str
) -> None:
    profile = tmp_path / "slow.yaml"
    profile.write_text("step_base_s: 1.0\n" if at == "decoding" else "prefill_s_per_token: 1000.0\n")
    sim = start_sim("--profile", str(profile))
    connection = sim.begin(body | {"stream": True}, path)
    sim.await_metric("vllm:num_requests_running", 1)
    stream = receive(connection, b"data: ") if at == "decoding" else b""
    sim.process.send_signal(signal.SIGTERM)
    stream += receive(connection)
    assert end in stream.rpartition(b"data: ")[2]
    assert stream.endswith(b"0\r\n\r\n")
    if path == "/v1/messages":
        assert stream.count(b"event: message_start") == 1
        assert stream.count(b"event: content_block_start") == stream.count(b"event: content_block_stop")
    assert sim.process.wait(timeout=WAIT_S) == 0
