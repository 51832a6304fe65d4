"""Prefill on one simulated server, decoding on another: `kv_transfer_params` as vLLM's NixlConnector has them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import free_port
from tests.instances.conftest import SimProcess, starting_sims

PROMPT = "The quick brown fox jumps over the lazy dog. " * 20  # 225 tokens, 15 blocks
CHAT = [{"role": "user", "content": PROMPT}]
ENGINE_ENDED = {
    "message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    "type": "InternalServerError",
    "param": None,
    "code": 500,
}
RECORDED = json.loads(Path(__file__).with_name("two_legs.json").read_text())  # two real vLLM servers
ASKED = RECORDED["prefill"]["request"]["kv_transfer_params"]
TOLD = RECORDED["decode"]["request"]["kv_transfer_params"]
USAGE = "vllm:kv_cache_usage_perc"
LOADED = "vllm:external_prefix_cache_hits_total"


def prefilled(server, prompt: str = PROMPT) -> dict[str, Any]:
    """The prefill leg; what its answer says of the blocks."""
    return server.complete(prompt, kv_transfer_params=ASKED)["kv_transfer_params"]


def decode_body(params: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "max_tokens": 8, "ignore_eos": True, "kv_transfer_params": params, **fields}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Any, Any]]:
    """One that prefills and one that decodes, for tests that lend and read all of what they lend."""
    with starting_sims() as start:
        yield start("--role", "prefill"), start("--role", "decode", "--transfer-latency-s", "0")


@pytest.fixture
def prefill(pair):
    prefill, _ = pair
    assert prefill.post("/reset_prefix_cache", {}) == (200, {"success": True})
    return prefill


@pytest.fixture
def decode(pair):
    _, decode = pair
    assert decode.post("/reset_prefix_cache", {}) == (200, {"success": True})
    return decode


def test_two_legs_answer_as_one_server_does(sim, prefill, decode) -> None:
    loaded = decode.metric(LOADED)
    answer = decode.complete(PROMPT, 8, kv_transfer_params=prefilled(prefill))
    assert answer["choices"] == sim.complete(PROMPT, 8)["choices"]
    assert decode.metric(LOADED) == loaded + 225


def test_two_legs_of_a_chat_answer_as_one_server_does(sim, prefill, decode) -> None:
    body = {"messages": CHAT, "max_tokens": 1, "kv_transfer_params": ASKED}
    status, first = prefill.post("/v1/chat/completions", body)
    assert status == 200
    body |= {"max_tokens": 8, "kv_transfer_params": first["kv_transfer_params"]}
    status, answer = decode.post("/v1/chat/completions", body)
    assert status == 200
    assert answer["choices"] == sim.post("/v1/chat/completions", {"messages": CHAT, "max_tokens": 8})[1]["choices"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": PROMPT, "max_output_tokens": 1}),
        ("/v1/messages", {"model": "sim", "messages": CHAT, "max_tokens": 1}),
        ("/inference/v1/generate", {"token_ids": list(range(50)), "sampling_params": {"max_tokens": 1}}),
    ],
)
def test_other_apis_tell_of_lent_blocks_too(prefill, decode, path: str, body: dict[str, Any]) -> None:
    status, answer = prefill.post(path, body | {"kv_transfer_params": ASKED})
    assert status == 200
    status, _ = decode.post(path, body | {"kv_transfer_params": answer["kv_transfer_params"]})
    assert status == 200
    assert prefill.metric(USAGE) == 0


def test_blocks_are_lent_until_they_have_been_read(prefill, decode) -> None:
    params = prefilled(prefill)
    assert (params["remote_port"], len(params["remote_block_ids"][0])) == (prefill.port, 15)
    assert prefill.metric(USAGE) > 0
    decode.complete(PROMPT, kv_transfer_params=params)
    assert prefill.metric(USAGE) == 0


def test_usage_tells_what_the_prefill_server_had_cached(prefill, decode) -> None:
    prefill.complete(PROMPT)
    cached = [
        decode.complete(PROMPT, kv_transfer_params=params)["usage"]["prompt_tokens_details"]["cached_tokens"]
        for params in (prefilled(prefill), prefilled(prefill) | {"remote_prefill_cached_tokens": None})
    ]
    assert cached == [224, 225]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("why", ["nobody there", "read before", "other start"])
def test_a_prompt_that_cannot_be_read_fails_as_with_vllm(prefill, decode, why: str, stream: bool) -> None:
    params = prefilled(prefill)
    decode.complete(PROMPT, kv_transfer_params=params)
    match why:
        case "nobody there":
            params["remote_port"] = free_port()
        case "other start":
            params["remote_engine_id"] = "another"
    failed = decode.metric("vllm:request_success_total", finished_reason="error")
    status, _, answer = decode.request("POST", "/v1/completions", decode_body(params, stream=stream))
    if stream:
        told = RECORDED["cannot be read, streamed"]
        assert (status, spaceless(answer)) == (told["status"], spaceless(told["answer"].encode()))
    else:
        told = RECORDED["cannot be read"]
        assert (status, json.loads(answer)) == (told["status"], told["answer"])
    assert decode.metric("vllm:request_success_total", finished_reason="error") == failed + 1
    assert decode.metric(USAGE) == 0


def spaceless(text: bytes) -> bytes:
    return text.replace(b" ", b"")


def test_both_legs_are_told_of_as_by_vllm(prefill, decode) -> None:
    body = RECORDED["prefill"]["request"] | {"model": "sim"}
    _, first = prefill.post("/v1/completions", body)
    params, told = first["kv_transfer_params"], RECORDED["prefill"]["answer"]["kv_transfer_params"]
    assert {name: type(value) for name, value in params.items()} == {name: type(value) for name, value in told.items()}
    same = ("do_remote_prefill", "do_remote_decode", "tp_size", "transfer_mode", "remote_prefill_cached_tokens")
    assert [params[name] for name in same] == [told[name] for name in same]
    assert params["remote_num_tokens"] == first["usage"]["prompt_tokens"]
    _, second = decode.post("/v1/completions", body | {"max_tokens": 24, "kv_transfer_params": params})
    details = "prompt_tokens_details"
    assert second["usage"][details]["cached_tokens"] == RECORDED["decode"]["answer"]["usage"][details]["cached_tokens"]
    assert second.get("kv_transfer_params") is RECORDED["decode"]["answer"]["kv_transfer_params"]


def test_the_prefill_server_can_die_while_its_blocks_are_read(start_sim) -> None:
    prefill = start_sim("--role", "prefill")
    decode = start_sim("--role", "decode", "--transfer-latency-s", "1")
    connection = decode.begin(decode_body(prefilled(prefill)))
    decode.await_metric(LOADED, 225)
    prefill.clean_up()
    assert connection.recv(65536).startswith(b"HTTP/1.1 500 ")


def test_blocks_are_given_back_when_the_client_leaves_or_the_request_is_refused(start_sim, prefill) -> None:
    decode = start_sim("--role", "decode", "--transfer-latency-s", "600", "--max-num-queued-reqs", "1")
    connection = decode.begin(decode_body(prefilled(prefill)))
    decode.await_metric(LOADED, 225)
    usage = prefill.metric(USAGE)
    params = prefilled(prefill, PROMPT + "Another.")
    assert prefill.metric(USAGE) > usage
    assert decode.post("/v1/completions", decode_body(params))[0] == 503
    prefill.await_metric(USAGE, usage)
    connection.close()
    prefill.await_metric(USAGE, 0)
    decode.await_metric(USAGE, 0)


# What vLLM 0.32 does with wrong parameters: docs/decisions/0033-connectors.md.


@pytest.mark.parametrize("lacks", ["remote_engine_id", "remote_request_id", "remote_host", "remote_port"])
def test_who_is_not_told_where_to_read_waits_until_its_client_leaves(decode, lacks: str) -> None:
    check_it_waits(decode, decode_body({name: value for name, value in TOLD.items() if name != lacks}))


def check_it_waits(server: SimProcess, body: dict[str, Any]) -> None:
    connection = server.begin(body)
    server.await_metric("vllm:num_requests_waiting", 1)
    assert server.metric(USAGE) > 0
    assert server.complete("Others are served.")["choices"]
    assert server.metric("vllm:num_requests_waiting") == 1
    connection.close()
    server.await_metric("vllm:num_requests_waiting", 0)
    server.await_metric(USAGE, 0)


def test_params_of_mooncake_end_an_engine_with_nixl(decode) -> None:
    params = {"do_remote_prefill": True, "transfer_id": "a", "remote_bootstrap_addr": "b", "remote_engine_id": "c"}
    status, answer = decode.post("/v1/completions", decode_body(params))
    assert (status, answer["error"]) == (500, ENGINE_ENDED)


@pytest.mark.parametrize(
    "wrong", [{"remote_host": 5}, {"remote_port": None}, {"remote_engine_id": 5}, {"remote_request_id": [1]}]
)
def test_a_place_of_another_type_cannot_be_read(decode, wrong: dict[str, Any]) -> None:
    told = RECORDED["cannot be read"]
    assert decode.post("/v1/completions", decode_body(TOLD | wrong)) == (told["status"], told["answer"])


def test_a_server_does_what_its_role_says_alone(prefill, decode) -> None:
    loaded = prefill.metric(LOADED)
    assert "kv_transfer_params" not in decode.complete(PROMPT, kv_transfer_params=ASKED)
    params = prefilled(prefill)
    prefill.complete(PROMPT, kv_transfer_params=params)
    assert prefill.metric(LOADED) == loaded
    decode.complete(PROMPT, kv_transfer_params=params)


def test_several_answers_to_a_prompt_share_what_was_read(prefill, decode) -> None:
    loaded = decode.metric(LOADED)
    answer = decode.complete(PROMPT, 3, n=3, kv_transfer_params=prefilled(prefill))
    assert len(answer["choices"]) == 3
    assert decode.metric(LOADED) == loaded + 225
