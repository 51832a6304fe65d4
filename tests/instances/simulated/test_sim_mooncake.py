"""Prefill on one simulated server, decoding on another: `kv_transfer_params` as vLLM's MooncakeConnector has them."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import pytest

from tests.conftest import WAIT_S
from tests.deployment import free_port
from tests.instances.conftest import SimProcess, starting_sims
from tests.instances.simulated.test_sim_transfers import (
    CHAT,
    ENGINE_ENDED,
    LOADED,
    PROMPT,
    RECORDED,
    TOLD,
    USAGE,
    check_it_waits,
)

MOON = ("--kv-connector", "mooncake")


def query(port: int, path: str = "/query") -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


class Pair(NamedTuple):
    """bootstrap_port: of the server that prefills."""

    prefill: SimProcess
    decode: SimProcess
    bootstrap_port: int

    def prefilled(self, transfer_id: str, prompt: str = PROMPT, **fields: Any) -> Any:
        """The prefill leg."""
        lend = {"do_remote_decode": True, "do_remote_prefill": False, "transfer_id": transfer_id}
        return self.prefill.complete(prompt, kv_transfer_params=lend, **fields)

    def reading(self, transfer_id: str, **other: Any) -> dict[str, Any]:
        """Of the decode leg."""
        engine_id = query(self.bootstrap_port)[1]["0"]["engine_id"]
        address = f"http://127.0.0.1:{self.bootstrap_port}"
        params = {"do_remote_prefill": True, "do_remote_decode": False, "transfer_id": transfer_id}
        return params | {"remote_bootstrap_addr": address, "remote_engine_id": engine_id} | other


def started(start: Any, *flags: str) -> Pair:
    port = free_port()
    prefill = start("--role", "prefill", *MOON, "--bootstrap-port", str(port), *flags)
    return Pair(prefill, start("--role", "decode", *MOON, "--transfer-latency-s", "0", *flags), port)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with starting_sims() as start:
        yield started(start)


@pytest.fixture(autouse=True)
def fresh(pair: Pair) -> None:
    for server in (pair.prefill, pair.decode):
        assert server.post("/reset_prefix_cache", {}) == (200, {"success": True})


def test_two_legs_answer_as_one_server_does(sim, pair) -> None:
    loaded = pair.decode.metric(LOADED)
    first = pair.prefilled("one")
    assert "kv_transfer_params" not in first
    assert pair.prefill.metric(USAGE) > 0
    answer = pair.decode.complete(PROMPT, 8, kv_transfer_params=pair.reading("one", remote_prefill_cached_tokens=48))
    assert answer["choices"] == sim.complete(PROMPT, 8)["choices"]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 48
    assert pair.decode.metric(LOADED) == loaded + 225
    assert pair.prefill.metric(USAGE) == 0


def test_who_asks_before_the_prompt_is_computed_waits_for_it(sim, pair) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(pair.decode.complete, PROMPT, 8, kv_transfer_params=pair.reading("early"))
        pair.decode.await_metric("vllm:num_requests_waiting", 1)
        pair.prefilled("early")
        assert answer.result()["choices"] == sim.complete(PROMPT, 8)["choices"]
    assert pair.prefill.metric(USAGE) == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("other", [{"remote_engine_id": "another"}, {"remote_bootstrap_addr": "http://127.0.0.1:9"}])
def test_an_engine_that_is_not_found_fails_as_with_vllm(pair, other: dict[str, Any], stream: bool) -> None:
    body = {"prompt": PROMPT, "max_tokens": 8, "stream": stream, "kv_transfer_params": pair.reading("none", **other)}
    status, _, answer = pair.decode.request("POST", "/v1/completions", body)
    told = RECORDED["cannot be read, streamed" if stream else "cannot be read"]
    expected = told["answer"].encode() if stream else json.dumps(told["answer"]).encode()
    assert (status, answer.replace(b" ", b"")) == (told["status"], expected.replace(b" ", b""))
    assert pair.decode.metric(USAGE) == 0


def test_what_did_not_end_by_its_length_is_not_kept(pair) -> None:
    lend = {"do_remote_decode": True, "transfer_id": "stops"}
    body = {"messages": CHAT, "max_tokens": 1000, "kv_transfer_params": lend}
    status, answer = pair.prefill.post("/v1/chat/completions", body)
    assert (status, answer["choices"][0]["finish_reason"]) == (200, "stop")
    assert pair.prefill.metric(USAGE) == 0


def test_prompts_and_readers_wait_for_so_long(start_sim) -> None:
    pair = started(start_sim, "--kv-wait-s", "0.1")
    pair.prefilled("late")
    pair.prefill.await_metric(USAGE, 0)
    body = {"prompt": PROMPT, "max_tokens": 8, "kv_transfer_params": pair.reading("late")}
    assert pair.decode.post("/v1/completions", body)[0] == 500


def test_a_reader_that_leaves_gives_the_prompt_back(start_sim, pair) -> None:
    slow = start_sim("--role", "decode", *MOON, "--transfer-latency-s", "600")
    pair.prefilled("left")
    connection = slow.begin({"prompt": PROMPT, "max_tokens": 8, "kv_transfer_params": pair.reading("left")})
    slow.await_metric(LOADED, 225)
    assert pair.prefill.metric(USAGE) > 0
    connection.close()
    pair.prefill.await_metric(USAGE, 0)


def test_ranks_have_engines_of_their_own(start_sim) -> None:
    port = free_port()
    server = start_sim("--role", "prefill", *MOON, "--bootstrap-port", str(port), "--data-parallel-size", "2")
    status, engines = query(port)
    assert (status, list(engines)) == (200, ["0", "1"])
    assert engines["0"]["engine_id"] != engines["1"]["engine_id"]
    assert engines["1"]["worker_addr"] == {"0": {"0": f"tcp://127.0.0.1:{server.port}"}}
    assert query(port, "/other")[0] == 404


@pytest.mark.parametrize("lacks", ["transfer_id", "remote_bootstrap_addr", "remote_engine_id"])
def test_who_is_not_told_whom_to_ask_waits_until_its_client_leaves(pair, lacks: str) -> None:
    params = pair.reading("none")
    del params[lacks]
    check_it_waits(pair.decode, {"prompt": PROMPT, "kv_transfer_params": params})


def test_who_is_told_what_nixl_tells_waits_too(pair) -> None:
    check_it_waits(pair.decode, {"prompt": PROMPT, "kv_transfer_params": TOLD})


def test_an_engine_of_another_type_is_not_found(pair) -> None:
    body = {"prompt": PROMPT, "kv_transfer_params": pair.reading("none") | {"remote_engine_id": 5}}
    told = RECORDED["cannot be read"]
    assert pair.decode.post("/v1/completions", body) == (told["status"], told["answer"])


def test_what_is_not_of_its_role_ends_an_engine(pair) -> None:
    for server, params in ((pair.prefill, pair.reading("a")), (pair.decode, {"do_remote_decode": True})):
        status, answer = server.post("/v1/completions", {"prompt": PROMPT, "kv_transfer_params": params})
        assert (status, answer["error"]) == (500, ENGINE_ENDED)


def test_a_prompt_without_a_name_is_not_kept(pair) -> None:
    pair.prefill.complete(PROMPT, kv_transfer_params={"do_remote_decode": True})
    assert pair.prefill.metric(USAGE) == 0
