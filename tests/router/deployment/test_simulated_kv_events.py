"""Simulated instances that publish KV events: what is believed to be cached is what they find cached."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import await_that
from tests.deployment import Deployment, deployed, free_port
from tests.instances.conftest import SimProcess, starting_sims
from tests.kv_follower import replayed

BLOCK_TOKENS = 64
EXACT = f"gateway: {{tokenizer: simulated}}\nscheduler: {{block_tokens: {BLOCK_TOKENS}}}\n"
TEXT = "one two three " * 280  # 1,000 tokens with what the template adds
PROMPTS = 12  # of which the pool of an instance behind a tier holds the last 8


def chat(deployment: Deployment, number: int) -> int:
    """Tokens of its prompt that the instance has found cached."""
    messages = [{"role": "user", "content": f"Number {number}: {TEXT}"}]
    with deployment.client() as client:
        usage = client.chat.completions.create(model="sim", messages=messages, max_tokens=1).usage
    assert usage.prompt_tokens > 980
    return usage.prompt_tokens_details.cached_tokens


def kv_events(deployment: Deployment) -> dict[str, dict]:
    """By instance: what its row says of them."""
    told = {name: member["signals"].get("kv_events", {}) for name, member in deployment.members().items()}
    return {name: row for name, row in told.items() if row}


def cached_blocks(deployment: Deployment) -> int:
    return sum(row["cached_blocks"] for row in kv_events(deployment).values())


def counter(deployment: Deployment, name: str) -> float:
    lines = deployment.metrics().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def assert_believed(deployment: Deployment, numbers: range, replay_endpoint: str = "") -> float:
    """For each prompt as much as is found, but for the end of a block of the gateway's. Tokens found in all.
    replay_endpoint: of the only instance, whose cache is too small for the prompts."""
    found_in_all = 0
    for number in numbers:
        before = counter(deployment, "dualmap_believed_cached_tokens_total")
        found = chat(deployment, number)
        believed = counter(deployment, "dualmap_believed_cached_tokens_total") - before
        assert 0 <= found - believed < BLOCK_TOKENS
        found_in_all += found
        if replay_endpoint:
            await_all_told(deployment, replay_endpoint)
    return found_in_all


@pytest.mark.ray
@pytest.mark.slow
def test_instances_that_are_started_here_tell_what_they_hold(tmp_path: Path) -> None:
    with deployed("--simulate", "2", "--kv-events", directory=tmp_path, config=EXACT) as deployment:
        for number in range(4):
            chat(deployment, number)
        await_that(lambda: cached_blocks(deployment) == 4 * (1000 // BLOCK_TOKENS), "the events tell of their blocks")
        assert_believed(deployment, range(4))
        assert all(row["exact"] for row in kv_events(deployment).values())
        assert counter(deployment, 'dualmap_tokenized_prompts_total{outcome="exact"}') == 8


@pytest.fixture
def tiered() -> Iterator[tuple[SimProcess, str, str]]:
    """A server with a small pool and a tier behind it, where it replays, and the deployment file that names it."""
    replay_endpoint = f"tcp://*:{free_port()}"
    events = {"endpoint": f"tcp://*:{free_port()}", "replay_endpoint": replay_endpoint}
    sizes = ("--kv-tokens", "8400", "--cpu-cache-tokens", "100000", "--cpu-load-tokens-per-s", "1000000")
    with starting_sims() as start:
        sim = start(*sizes, "--kv-events-config", json.dumps({"enable_kv_cache_events": True, **events}))
        instance = {"url": f"http://127.0.0.1:{sim.port}", "kv_events": events}
        yield sim, replay_endpoint, f"{EXACT}instances: [{json.dumps(instance)}]\n"


def test_a_deployment_that_is_started_again_learns_what_was_told_before(tiered, tmp_path: Path) -> None:
    """Of the pool and of the tier: by a replay."""
    sim, replay_endpoint, config = tiered
    with deployed(directory=tmp_path, config=config) as deployment:
        for number in range(PROMPTS):
            chat(deployment, number)
        await_all_told(deployment, replay_endpoint)
        known = cached_blocks(deployment)
        assert deployment.stop(signal.SIGINT) == 0
    with deployed(directory=tmp_path, config=config) as deployment:
        await_all_told(deployment, replay_endpoint)
        assert cached_blocks(deployment) == known
        assert assert_believed(deployment, range(PROMPTS - 1, -1, -1), replay_endpoint) > PROMPTS * 900
        assert counter(deployment, 'dualmap_believed_loaded_tokens_total{tier="cpu"}') > 0
        assert sim.post("/reset_prefix_cache", {})[1] == {"success": True}
        chat(deployment, PROMPTS)  # with which the reset is told
        await_all_told(deployment, replay_endpoint)
        assert cached_blocks(deployment) == 1000 // BLOCK_TOKENS
        assert_believed(deployment, range(2), replay_endpoint)


def await_all_told(deployment: Deployment, replay_endpoint: str) -> None:
    published = len(replayed(replay_endpoint, 0)) - 1
    await_that(lambda: [row["batches"] for row in kv_events(deployment).values()] == [published], "all is told")
