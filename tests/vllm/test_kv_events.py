"""A real vLLM server's KV events, held against the prompts it was sent and what it then finds cached."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared
from tests.conftest import await_that
from tests.kv_follower import BLOCK_TOKENS, Follower, own, prompt
from tests.vllm.conftest import KV_TOPIC, EverydayServer

pytestmark = pytest.mark.vllm


class Served:
    """A server that publishes its events."""

    def __init__(self, server: EverydayServer) -> None:
        self.server = server

    def follow(self) -> Follower:
        return Follower(KV_TOPIC, self.server.kv_endpoint, self.server.kv_replay_endpoint)

    def complete(self, ids: Sequence[int], max_tokens: int = 1, **fields: Any) -> int:
        """Tokens of the prompt that were cached."""
        body = {"model": "tiny", "prompt": list(ids), "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0}
        status, answer = self.server.post("/v1/completions", body | fields)
        assert status == 200, answer
        return (answer["usage"]["prompt_tokens_details"] or {}).get("cached_tokens", 0)


@pytest.fixture(scope="module")
def served(everyday_server: EverydayServer) -> Served:
    return Served(everyday_server)


@pytest.fixture
def follower(served: Served) -> Iterator[Follower]:
    follower = served.follow()
    try:
        yield follower
    finally:
        follower.close()


def test_stored_blocks_are_those_of_the_prompts_token_ids(served, follower):
    first = prompt(1000, 1)
    second = first[:700] + prompt(5000, 2)  # more than the engine computes in a step
    for ids, fields in ((first, {}), (second, {}), (first, {"cache_salt": "s"}), (second, {"max_tokens": 200})):
        blocks = own(ids, fields.get("cache_salt", ""))
        served.complete(ids, **fields)
        follower.await_held(blocks)
        assert any(event == BlocksStored("vllm-0", blocks) for event in follower.told)
    assert not {*own(first)} & {*own(first, "s")}
    # the prompt and the answer make up the blocks of the next turn
    await_that(lambda: len(follower.told[-1].blocks) > len(own(second)), "the answer's blocks are told")
    assert follower.told[-1].blocks[: len(own(second))] == own(second)
    assert (follower.status.resets, follower.status.unknown_parents, follower.status.error) == (0, 0, "")


def test_what_is_believed_is_what_the_engine_finds(served, follower):
    """Prompts of whole blocks: the last block of one that comes again is computed again, and its two copies are evicted
    at different times."""
    prompts = [prompt(1024, seed) for seed in range(100, 120)]
    again = prompts[:6]
    for ids in [*again, *prompts]:
        served.complete(ids)
        follower.await_held(own(ids))
    assert any(isinstance(event, BlocksRemoved) for event in follower.told)
    believed, found = [], []
    for ids in [*reversed(again), *reversed(prompts)]:
        blocks = own(ids)
        believed.append(next((n for n, block in enumerate(blocks) if block not in follower.held), len(blocks)))
        found.append(served.complete([*ids, 5]) // BLOCK_TOKENS)  # the last token is always computed
        follower.await_held(blocks)
    assert believed == found
    assert 0 in found
    assert len(own(prompts[0])) in found
    assert (follower.status.resets, follower.status.unknown_parents, follower.status.error) == (0, 0, "")


def test_one_who_comes_late_learns_what_is_held(served, follower):
    ids = prompt(600, 7)
    served.complete(ids)
    follower.await_held(own(ids))
    late = served.follow()
    try:
        late.await_held(follower.held)
        assert late.held == follower.held
        assert late.status.replayed == late.status.batches > 0
    finally:
        late.close()


def test_a_reset_of_the_cache_is_told_with_the_next_request(served, follower):
    ids, after = prompt(600, 8), prompt(600, 9)
    served.complete(ids)
    follower.await_held(own(ids))
    status, _ = served.server.post("/reset_prefix_cache")
    assert status == 200
    served.complete(after)
    follower.await_held(own(after))
    assert follower.held == set(own(after))
    assert follower.told[-2:] == [CacheCleared("vllm-0"), BlocksStored("vllm-0", own(after))]
    assert follower.status.resets == 0


@pytest.mark.release
def test_a_server_started_again_at_its_endpoints_is_empty(served, follower):
    ids, after = prompt(600, 10), prompt(600, 11)
    served.complete(ids)
    follower.await_held(own(ids))
    served.server.stop()
    served.server.start()
    served.server.await_ready()
    served.complete(after)
    follower.await_held(own(after))
    assert follower.held == set(own(after))
    assert follower.status.resets == 1
