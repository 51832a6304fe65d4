"""The simulated server publishes and replays KV events as vLLM does: the same frames, events, fields and types."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from dualmap.instances.kv_events.stream import connect_address
from tests.conftest import WAIT_S, await_that
from tests.deployment import free_port
from tests.instances.conftest import SimProcess
from tests.kv_follower import prompt, replayed
from tests.vllm.conftest import EVERYDAY_POOL_BLOCKS, KV_TOPIC, EverydayServer
from tests.vllm.test_agreement import ask
from tests.vllm.test_lora import write_adapter

pytestmark = pytest.mark.vllm

BLOCK = 32  # tokens
PROMPT = prompt(1000, 1)
ASKED: dict[str, tuple[list[int], dict[str, Any], int]] = {  # a prompt, further fields, tokens that came before
    "a prompt": (PROMPT, {}, 0),
    "more of a prompt": (PROMPT + prompt(300, 2), {}, len(PROMPT)),
    "a prompt with a salt": (PROMPT, {"cache_salt": "s"}, 0),
    "an answer of several blocks": (prompt(40, 3), {"max_tokens": 100}, 0),
    "a prompt of less than a block": (prompt(20, 4), {"max_tokens": 40}, 0),
}


class Side:
    """One of the two servers, and what it publishes."""

    def __init__(self, port: int, endpoint: str, replay_endpoint: str) -> None:
        self._port = port
        self._context = zmq.Context()
        self._live = self._context.socket(zmq.SUB)
        self._live.rcvtimeo = int(WAIT_S * 1000)
        self._live.subscribe(KV_TOPIC)
        self._live.connect(connect_address(endpoint, "127.0.0.1"))
        self._replay_endpoint = replay_endpoint
        self._next = len(replayed(replay_endpoint, 0)) - 1  # batches so far, as long as all are kept

    def close(self) -> None:
        self._context.destroy(linger=0)

    def load_adapter(self, path: Path) -> None:
        self._post("/v1/load_lora_adapter", {"lora_name": path.name, "lora_path": str(path)})

    def unload_adapter(self, path: Path) -> None:
        self._post("/v1/unload_lora_adapter", {"lora_name": path.name})

    def complete(self, ids: list[int], max_tokens: int = 1, **fields: Any) -> None:
        body = {"model": "tiny", "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
        self._post("/v1/completions", body | {"prompt": ids} | fields)

    def reset(self) -> None:
        self._post("/reset_prefix_cache", {})

    def told(self, tokens: int) -> list[list[Any]]:
        """The batches since the last call, which have also been published, once they store so many tokens in whole
        blocks: vLLM publishes by a thread of its own, perhaps when a request has its answer already."""
        batches: list[list[Any]] = []

        def all_is_told() -> bool:
            batches.extend(self._news())
            stored = [event for event in events_of(batches) if event["type"] == "BlockStored"]
            return sum(len(event["block_hashes"]) for event in stored) >= tokens // BLOCK

        await_that(all_is_told, f"{tokens} tokens are told of")
        return batches

    def _post(self, path: str, body: dict[str, Any]) -> None:
        answer = ask(self._port, "POST", path, json.dumps(body).encode(), "application/json")
        assert answer.status == 200, answer.body

    def _news(self) -> Iterator[list[Any]]:
        *batches, end = replayed(self._replay_endpoint, self._next)
        assert end == [b"", b"", b"\xff" * 8, b""]
        for empty, topic, number, payload in batches:
            assert (empty, topic, int.from_bytes(number, "big")) == (b"", KV_TOPIC.encode(), self._next)
            while (live := self._live.recv_multipart())[1] != number:
                pass  # from before it was known how many there were
            assert live == [topic, number, payload]
            self._next += 1
            yield msgspec.msgpack.decode(payload)


@pytest.fixture(scope="module")
def sides(everyday_server: EverydayServer) -> Iterator[tuple[Side, Side]]:
    """Simulated and real, with caches of the same size. The pool of vLLM has a block that it does not use."""
    ends = {name: f"tcp://*:{free_port()}" for name in ("endpoint", "replay_endpoint")}
    config = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": KV_TOPIC, **ends}
    pool_tokens = (EVERYDAY_POOL_BLOCKS - 1) * BLOCK
    sizes = ("--block-size", str(BLOCK), "--kv-tokens", str(pool_tokens), "--prefill-tokens-per-s", "1000000")
    process = SimProcess("--model", "tiny", *sizes, "--kv-events-config", json.dumps(config))
    simulated = Side(process.port, *ends.values())
    real = Side(everyday_server.port, everyday_server.kv_endpoint, everyday_server.kv_replay_endpoint)
    yield simulated, real
    simulated.close()
    real.close()
    process.clean_up()


@pytest.fixture
def empty(sides: tuple[Side, Side]) -> tuple[Side, Side]:
    """Whose caches are empty, and who have said so."""
    for side in sides:
        side.reset()
        side.complete(prompt(100, 0))
        side.told(100)
    return sides


def events_of(batches: list[list[Any]]) -> list[dict[str, Any]]:
    return [event for _, events, _ in batches for event in events]


def kind_of(value: Any) -> str:
    return f"[{kind_of(value[0])}]" if isinstance(value, list) and value else type(value).__name__


def kinds(batches: list[list[Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of events in a row that are alike, one: what it is, and its fields with their types."""
    named = [
        (event["type"], sorted((name, kind_of(value)) for name, value in event.items())) for event in events_of(batches)
    ]
    return [kind for kind, _ in groupby(named)]


@pytest.mark.parametrize("name", ASKED)
def test_a_request_is_told_of_alike(name: str, empty: tuple[Side, Side]) -> None:
    """The last token has not been computed: it is in no block."""
    ids, fields, known = ASKED[name]
    told = []
    for side in empty:
        if known:
            side.complete(ids[:known])
            side.told(known)
        side.complete(ids, **fields)
        told.append(side.told(len(ids) + fields.get("max_tokens", 1) - 1 - known // BLOCK * BLOCK))
    simulated, real = told
    assert kinds(simulated) == kinds(real)
    assert [kind_of(each) for each in simulated[0]] == [kind_of(each) for each in real[0]]
    assert {rank for _, _, rank in simulated + real} == {0}
    ours, theirs = ([strip(event) for event in events_of(side)] for side in told)
    if "max_tokens" in fields:  # the models answer differently
        ours, theirs = ([event | {"token_ids": len(event["token_ids"])} for event in side] for side in (ours, theirs))
    assert ours == theirs


def strip(event: dict[str, Any]) -> dict[str, Any]:
    """Without hashes, which are each server's own."""
    return event | {"block_hashes": len(event["block_hashes"]), "parent_block_hash": bool(event["parent_block_hash"])}


def test_a_prompt_of_an_adapter_is_told_of_alike(empty: tuple[Side, Side], tmp_path: Path) -> None:
    path = tmp_path / "sql"
    write_adapter(path, 1)
    told = []
    for side in empty:
        side.load_adapter(path)
        side.complete(PROMPT, model="sql", cache_salt="s")
        told.append(side.told(len(PROMPT)))
        side.unload_adapter(path)
    assert kinds(told[0]) == kinds(told[1])
    (ours,), (theirs,) = map(events_of, told)
    assert (ours["lora_name"], ours["extra_keys"]) == (theirs["lora_name"], theirs["extra_keys"])


def test_what_is_evicted_is_told_alike(empty: tuple[Side, Side]) -> None:
    """More prompts than the pool holds. Each block goes by an event of its own."""
    for side in empty:
        for seed in range(10, 30):
            side.complete(prompt(1024, seed))
    told = [side.told(20 * 1024) for side in empty]
    assert kinds(told[0]) == kinds(told[1])
    for batches in told:
        gone = [event for event in events_of(batches) if event["type"] == "BlockRemoved"]
        assert gone
        assert all(len(event["block_hashes"]) == 1 for event in gone)


def test_a_reset_is_told_alike(empty: tuple[Side, Side]) -> None:
    """With the next request, in one batch with what it stores."""
    told = []
    for side in empty:
        side.reset()
        assert side.told(0) == []
        side.complete(PROMPT)
        told.append(side.told(len(PROMPT)))
    assert kinds(told[0]) == kinds(told[1])
    assert [[len(events) for _, events, _ in side] for side in told] == [[2], [2]]
