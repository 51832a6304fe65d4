"""A real vLLM server with a tier behind its KV pool: what it says of both, held against what it then finds cached.

Its scheduler, OffloadingConnector and memory of blocks are vLLM's; only its worker is that of host_tier.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import await_that
from tests.deployment import free_port
from tests.kv_follower import BLOCK_TOKENS, Follower, own, prompt
from tests.vllm.conftest import KV_TOPIC, VllmServer, served
from tests.vllm.test_kv_events import Served

pytestmark = [pytest.mark.vllm, pytest.mark.release]

POOL_BLOCKS = 264  # of 32 tokens: 8 prompts of 1,024
TIER_BYTES = 6_000_000  # 16 of them


class OffloadingServer(VllmServer):
    def __init__(self, log_path: Path) -> None:
        self.kv_endpoint, self.kv_replay_endpoint = (f"tcp://*:{free_port()}" for _ in range(2))
        kv_events = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": KV_TOPIC}
        kv_events |= {"endpoint": self.kv_endpoint, "replay_endpoint": self.kv_replay_endpoint}
        tier = {"spec_name": "HostTier", "spec_module_path": "host_tier", "cpu_bytes_to_use": TIER_BYTES}
        transfer = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both"}
        transfer["kv_connector_extra_config"] = tier | {"self_describing_kv_events": True}
        super().__init__(
            log_path,
            *("--num-gpu-blocks-override", str(POOL_BLOCKS), "--kv-events-config", json.dumps(kv_events)),
            *("--kv-transfer-config", json.dumps(transfer)),
            env={"PYTHONPATH": str(Path(__file__).parent)},
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OffloadingServer]:
    started = OffloadingServer(tmp_path_factory.mktemp("tiers") / "vllm.log")
    with served(started):
        yield started


@pytest.fixture
def follower(server: OffloadingServer) -> Iterator[Follower]:
    follower = Served(server).follow()
    try:
        yield follower
    finally:
        follower.close()


def test_what_is_believed_of_pool_and_tier_is_what_the_engine_finds(server, follower) -> None:
    """More prompts than the pool holds, and after a while more than the tier does."""
    engine = Served(server)
    for round_number, count in enumerate((12, 20)):
        prompts = [prompt(1024, 1000 * round_number + seed) for seed in range(count)]
        for ids in prompts:
            engine.complete(ids)
            await_that(lambda ids=ids: follower.in_tier.issuperset(own(ids)), "its blocks are in the tier")
        in_pool, believed, found = 0, [], []
        for ids in reversed(prompts):
            blocks = own(ids)
            held = next((n for n, block in enumerate(blocks) if block not in follower.held), len(blocks))
            either = follower.held | follower.in_tier
            known = next((n for n, block in enumerate(blocks) if block not in either), len(blocks))
            in_pool += held
            believed.append(known)
            found.append(engine.complete([*ids, 5]) // BLOCK_TOKENS)  # the last token is always computed
            follower.await_held(blocks)
        assert believed == found
        assert in_pool < sum(found), "some was read back from the tier"
    assert 0 in found
    assert (follower.status.resets, follower.status.unknown_parents, follower.status.error) == (0, 0, "")
