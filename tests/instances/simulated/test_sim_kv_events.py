"""What a simulated server publishes of its cache over ZMQ, held against what it then finds cached."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from dualmap.scheduler.events import CacheCleared
from tests.conftest import WAIT_S
from tests.deployment import free_port
from tests.instances.conftest import JSON_HEADERS, SimProcess
from tests.kv_follower import BLOCK_TOKENS, Follower, own, prompt, replayed

TOPIC = "kv"
POOL_TOKENS = 264 * 32  # 8 prompts of 1,024
RANKS = 2


class Publishing:
    """A server that publishes, and who reads it."""

    def __init__(self, start_sim: Callable[..., SimProcess], stack: ExitStack, *flags: str, **config: object) -> None:
        self.port, self.replay_port = free_port(RANKS), free_port(RANKS)
        self.replay_endpoint = f"tcp://*:{self.replay_port}"
        ends = {"endpoint": f"tcp://*:{self.port}", "replay_endpoint": self.replay_endpoint}
        told = {"enable_kv_cache_events": True, "topic": TOPIC, **ends, **config}
        quick = ("--prefill-tokens-per-s", "1000000", "--block-size", "32", "--kv-tokens", str(POOL_TOKENS))
        self.sim = start_sim(*quick, "--kv-events-config", json.dumps(told), *flags)
        self._stack = stack

    def follow(self, rank: int = 0) -> Follower:
        ports = self.port + rank, self.replay_port + rank
        follower = Follower(TOPIC, *(f"tcp://*:{port}" for port in ports))
        self._stack.callback(follower.close)
        return follower

    def cached(self, ids: Sequence[int], **fields: object) -> int:
        """Tokens of the prompt that the engine finds cached."""
        return self.sim.complete(ids, **fields)["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.fixture
def publishing(start_sim: Callable[..., SimProcess]) -> Iterator[Callable[..., Publishing]]:
    with ExitStack() as stack:
        yield lambda *flags, **config: Publishing(start_sim, stack, *flags, **config)


def leading(blocks: Sequence[int], held: set[int]) -> int:
    return next((n for n, block in enumerate(blocks) if block not in held), len(blocks))


def test_what_is_believed_of_pool_and_tier_is_what_the_engine_finds(publishing) -> None:
    """More prompts than the pool holds, and after a while more than the tier does: 16."""
    server = publishing("--cpu-cache-tokens", str(16 * 1024))
    follower = server.follow()
    for round_number, count in enumerate((12, 20)):
        prompts = [prompt(1024, 1000 * round_number + seed) for seed in range(count)]
        for ids in prompts:
            server.cached(ids)
            follower.await_held(own(ids))
        in_pool, believed, found = 0, [], []
        for ids in reversed(prompts):
            blocks = own(ids)
            in_pool += leading(blocks, follower.held)
            believed.append(leading(blocks, follower.held | follower.in_tier))
            found.append(server.cached([*ids, 5]) // BLOCK_TOKENS)  # the last token is always computed
            follower.await_held(blocks)
        assert believed == found
        assert in_pool < sum(found), "some was read back from the tier"
    assert 0 in found
    assert (follower.status.resets, follower.status.unknown_parents, follower.status.error) == (0, 0, "")


def test_blocks_are_those_of_adapter_and_salt(publishing) -> None:
    server = publishing("--lora", "sql")
    follower = server.follow()
    ids = prompt(1000, 1)
    for fields, scope in (({}, {}), ({"model": "sql"}, {"adapter": "sql"}), ({"cache_salt": "s"}, {"salt": "s"})):
        assert server.cached(ids, **fields) == 0
        follower.await_held(own(ids, **scope))
        assert server.cached(ids, **fields) == 992
    assert len(follower.held) == 3 * len(own(ids))
    assert server.cached(ids, model="sql", cache_salt="s") == 0


def test_the_answers_blocks_are_those_of_the_next_turn(publishing) -> None:
    server = publishing()
    follower = server.follow()
    ids = prompt(100, 2)
    answer = server.sim.complete(ids, 400, return_token_ids=True)["choices"][0]["token_ids"]
    follower.await_held(own([*ids, *answer[:-1]]))


def test_one_who_comes_late_learns_what_is_held(publishing) -> None:
    server = publishing("--cpu-cache-tokens", "100000")
    early = server.follow()
    for seed in range(12):
        server.cached(prompt(1024, seed))
    early.await_held(own(prompt(1024, 11)))
    late = server.follow()
    late.await_held(early.held)
    assert (late.held, late.in_tier) == (early.held, early.in_tier)
    assert late.status.replayed == late.status.batches > 0


def test_a_reset_of_the_cache_is_told_with_the_next_request(publishing) -> None:
    server = publishing("--cpu-cache-tokens", "100000")
    follower = server.follow()
    before, after = prompt(600, 8), prompt(600, 9)
    server.cached(before)
    follower.await_held(own(before))
    assert server.sim.post("/reset_prefix_cache", {})[1] == {"success": True}
    server.cached(after)
    follower.await_held(own(after))
    assert follower.held == follower.in_tier == set(own(after))
    assert CacheCleared("vllm-0") in follower.told
    assert follower.status.resets == 0


def test_each_rank_publishes_at_the_port_plus_its_number(publishing) -> None:
    server = publishing("--data-parallel-size", str(RANKS))
    followers = [server.follow(rank) for rank in range(RANKS)]
    prompts = [prompt(600, rank) for rank in range(RANKS)]
    for rank, ids in enumerate(prompts):
        headers = {**JSON_HEADERS, "X-data-parallel-rank": str(rank)}
        assert server.sim.post("/v1/completions", {"prompt": ids, "max_tokens": 1}, headers)[0] == 200
    for follower, ids in zip(followers, prompts, strict=True):
        follower.await_held(own(ids))
        assert follower.held == set(own(ids))
    (*_, payload), *_ = replayed(server.replay_endpoint, 0)
    assert msgspec.msgpack.decode(payload)[2] == 0


def test_a_step_is_a_batch_and_batches_are_replayed_in_vllms_frames(publishing) -> None:
    server = publishing("--max-num-batched-tokens", "512", "--max-num-seqs", "8", buffer_steps=3)
    follower = server.follow()
    ids = prompt(4 * 512, 3)
    server.cached(ids)
    follower.await_held(own(ids))
    *batches, end = replayed(server.replay_endpoint, 2)
    assert end == [b"", b"", b"\xff" * 8, b""]
    assert [frames[:3] for frames in batches] == [[b"", TOPIC.encode(), n.to_bytes(8, "big")] for n in (2, 3)]
    assert [frames[2][-1] for frames in replayed(server.replay_endpoint, 0)] == [1, 2, 3, 255]  # three are kept
    for _, _, _, payload in batches:
        at, (event,), rank = msgspec.msgpack.decode(payload)
        assert (event["type"], len(event["block_hashes"]), len(event["token_ids"])) == ("BlockStored", 16, 512)
        assert (type(at), rank) == (float, 0)


@pytest.mark.parametrize(
    "config", [{}, {"publisher": "zmq"}, {"enable_kv_cache_events": True, "publisher": "null", "endpoint": "nowhere"}]
)
def test_where_events_are_off_nothing_is_loaded_for_them(config: dict[str, object], start_sim) -> None:
    sim = start_sim("--kv-events-config", json.dumps(config))
    sim.complete(prompt(100, 1))
    assert "libzmq" not in Path(f"/proc/{sim.process.pid}/maps").read_text()


def test_a_step_that_changes_nothing_publishes_nothing(publishing) -> None:
    server = publishing()
    for _ in range(3):
        server.cached(prompt(600, 1))
    assert len(replayed(server.replay_endpoint, 0)) == 2  # a batch, and the end


@pytest.mark.parametrize(
    ("config", "status", "message"),
    [
        ("{", 2, "argument --kv-events-config: not JSON: Input data was truncated"),
        ("[]", 2, "argument --kv-events-config: Expected `object`, got `array`; known fields are enable_kv_cache_"),
        (
            '{"endpont": "x"}',
            2,
            "Object contains unknown field `endpont`; known fields are enable_kv_cache_events, pub",
        ),
        ('{"publisher": "kafka"}', 2, "Invalid enum value 'kafka' - at `$.publisher`"),
        ('{"buffer_steps": 0}', 2, "Expected `int` >= 1 - at `$.buffer_steps`"),
        ('{"enable_kv_cache_events": true, "endpoint": "nowhere"}', 1, "error: --kv-events-config: nowhere: "),
        (
            '{"enable_kv_cache_events": true, "endpoint": "ipc://@dualmap-test"}',
            1,
            "error: --kv-events-config: 'ipc://@dualmap-test' has no port to count up for data-parallel ranks",
        ),
    ],
)
def test_a_bad_configuration_is_one_line_that_names_what_is_wrong(config: str, status: int, message: str) -> None:
    command = [sys.executable, "-m", "dualmap.instances.simulated.cli", "--port", "0", "--data-parallel-size", "2"]
    ended = subprocess.run(
        [*command, "--kv-events-config", config], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert ended.returncode == status
    assert message in ended.stderr.splitlines()[-1]


def test_a_taken_endpoint_is_named(publishing, start_sim) -> None:
    server = publishing()
    command = server.sim.process.args
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"error: --kv-events-config: tcp://*:{server.port}: Address already in use\n"
