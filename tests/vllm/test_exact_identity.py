"""A gateway with the model's tokenizer and its servers' KV events knows what each has cached, whatever it missed."""

import os
import signal

import pytest

from tests.conftest import await_that
from tests.deployment import Deployment
from tests.vllm.conftest import EXACT_BLOCK_TOKENS, post

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def deployment(two_replicas: Deployment) -> Deployment:
    return two_replicas


def chat(deployment: Deployment, text: str):
    """Who answered, and how many tokens the prompt had and how many of them were cached."""
    raw = deployment.client().chat.completions.with_raw_response.create(
        model="tiny", messages=[{"role": "user", "content": text}], max_tokens=2
    )
    usage = raw.parse().usage
    return raw.headers["x-dualmap-instance"], usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens


def cached_blocks(deployment: Deployment) -> dict[str, int]:
    return {
        instance_id: member["signals"].get("kv_events", {}).get("cached_blocks", 0)
        for instance_id, member in deployment.members().items()
        if "signals" in member
    }


def counter(deployment: Deployment, name: str) -> float:
    lines = deployment.metrics().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_what_is_believed_to_be_cached_is_what_vllm_finds_cached(deployment):
    texts = [f"Number {i}: " + "one two three " * 200 for i in range(4)]
    for text in texts:
        chat(deployment, text)
    blocks = sum(chat(deployment, text)[1] // EXACT_BLOCK_TOKENS for text in texts)
    assert counter(deployment, 'dualmap_tokenized_prompts_total{outcome="exact"}') == 8
    await_that(lambda: sum(cached_blocks(deployment).values()) == blocks, "the events tell of the same blocks")
    before = counter(deployment, "dualmap_believed_cached_tokens_total")
    found = sum(chat(deployment, text)[2] for text in texts)
    believed = counter(deployment, "dualmap_believed_cached_tokens_total") - before
    assert 0 <= found - believed < 4 * EXACT_BLOCK_TOKENS  # the engine has smaller blocks


def test_a_restarted_gateway_learns_at_once_what_is_cached(deployment):
    text = "Remember this. " * 200
    instance_id, prompt_tokens, _ = chat(deployment, text)
    known = await_that(
        lambda: (c := cached_blocks(deployment))[instance_id] >= prompt_tokens // EXACT_BLOCK_TOKENS and c, "it is told"
    )
    os.kill(deployment.status()["pid"], signal.SIGKILL)

    def knows_again() -> bool:
        try:
            return cached_blocks(deployment) == known
        except OSError:
            return False

    await_that(knows_again, "the new gateway has been told all")
    again, _, cached = chat(deployment, text)
    assert again == instance_id
    assert cached > prompt_tokens // 2


def test_a_cache_that_was_cleared_is_forgotten(deployment):
    text = "Forget this. " * 200
    instance_id, prompt_tokens, _ = chat(deployment, text)
    await_that(lambda: cached_blocks(deployment)[instance_id] >= prompt_tokens // EXACT_BLOCK_TOKENS, "it is told")
    address = deployment.members()[instance_id]["address"]
    assert post(f"http://{address}/reset_prefix_cache")[0] == 200
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1}  # the event of the clear comes with the next request
    assert post(f"http://{address}/v1/completions", body)[0] == 200
    await_that(lambda: cached_blocks(deployment)[instance_id] == 0, "it is forgotten")
