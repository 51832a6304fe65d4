"""A base model and two adapters of it, of random weights, on one vLLM server behind a gateway."""

import json
import random
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.conftest import await_that
from tests.deployment import Deployment, deployed
from tests.vllm.conftest import ENV, FLAGS, START_TIMEOUT_S, TINY, VLLM, post

pytestmark = [pytest.mark.vllm, pytest.mark.release]

RANK = 8
BLOCK_TOKENS = 64
ADAPTERS = ("sql", "law")
ANSWER_TOKENS = 12
EXACTLY = {"ignore_eos": True}


def write_adapter(directory: Path, seed: int) -> None:
    """A LoRA adapter of the query projections, as peft writes it."""
    model = json.loads((TINY / "config.json").read_text())
    size = model["hidden_size"]
    shapes = {"lora_A": [RANK, size], "lora_B": [size, RANK]}
    rng = random.Random(seed)
    header: dict[str, dict] = {}
    weights = b""
    for layer in range(model["num_hidden_layers"]):
        for part, shape in shapes.items():
            data = array("f", (rng.gauss(0, 1) for _ in range(RANK * size))).tobytes()
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.{part}.weight"
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(weights), len(weights) + len(data)]}
            weights += data
    head = json.dumps(header).encode()
    directory.mkdir()
    (directory / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + weights)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 64, "bias": "none"}
    config |= {"target_modules": ["q_proj"], "lora_dropout": 0.0, "base_model_name_or_path": str(TINY)}
    (directory / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory) -> Iterator[Deployment]:
    if not VLLM.exists():
        pytest.skip(f"{VLLM} is missing: make vllm")
    directory = tmp_path_factory.mktemp("lora")
    for seed, name in enumerate(ADAPTERS):
        write_adapter(directory / name, seed)
    modules = [f"{name}={directory / name}" for name in ADAPTERS]
    engine_args = [*FLAGS, "--enable-lora", "--max-loras", "2", "--lora-modules", *modules]
    vllm = {"model": str(TINY), "executable": str(VLLM), "kv_events": True, "engine_args": engine_args}
    config = {"vllm": vllm, "gateway": {"tokenizer": str(TINY)}, "scheduler": {"block_tokens": BLOCK_TOKENS}}
    within_s = 2 * START_TIMEOUT_S
    with deployed(directory=directory, config=json.dumps(config), within_s=within_s, env=ENV) as deployment:
        yield deployment


def ask(client: openai.OpenAI, model: str, text: str) -> tuple[str, int, int]:
    """What it says, how long the prompt was, and how much of it was cached."""
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        max_tokens=ANSWER_TOKENS,
        temperature=0,
        extra_body=EXACTLY,
    )
    usage = answer.usage
    return answer.choices[0].message.content, usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens


def test_each_name_answers_for_itself_and_finds_nothing_of_the_others(deployment):
    client = deployment.client()
    text = "one two three " * 200
    names = ("tiny", *ADAPTERS)
    first = {name: ask(client, name, text) for name in names}
    assert [cached for _, _, cached in first.values()] == [0, 0, 0]
    again = {name: ask(client, name, text) for name in names}
    assert all(cached > prompt_tokens // 2 for _, prompt_tokens, cached in again.values())
    assert {name: said for name, (said, _, _) in again.items()} == {name: said for name, (said, _, _) in first.items()}
    assert len({said for said, _, _ in first.values()}) == 3


def test_the_gateway_knows_what_is_cached_of_each(deployment):
    def believed() -> float:
        lines = deployment.metrics().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("dualmap_believed_cached_tokens_total")
        )

    def cached_blocks() -> int:
        (member,) = deployment.members().values()
        return member["signals"].get("kv_events", {}).get("cached_blocks", 0)

    client = deployment.client()
    text = "Known by its tokens. " * 200
    (member,) = deployment.members().values()
    assert post(f"http://{member['address']}/reset_prefix_cache")[0] == 200
    assert ask(client, "tiny", "hi")[1] < BLOCK_TOKENS - ANSWER_TOKENS  # the event of the clear comes with it
    await_that(lambda: cached_blocks() == 0, "the cache is empty")
    prompt_tokens = [ask(client, name, text)[1] for name in ("tiny", *ADAPTERS)]
    own = sum((tokens + ANSWER_TOKENS - 1) // BLOCK_TOKENS for tokens in prompt_tokens)  # the last is never computed
    await_that(lambda: cached_blocks() == own, "the events tell of the blocks of each")
    before = believed()
    found = sum(ask(client, name, text)[2] for name in ("tiny", *ADAPTERS))
    assert 0 <= found - (believed() - before) < 3 * BLOCK_TOKENS  # the engine has smaller blocks


def test_cards_and_metrics_tell_of_the_adapters(deployment):
    client = deployment.client()
    cards = {card.id: card for card in client.models.list()}
    assert {name: card.parent for name, card in cards.items()} == {"tiny": None, "sql": "tiny", "law": "tiny"}
    with pytest.raises(openai.NotFoundError):
        ask(client, "poem", "hi")
    ask(client, "sql", "hi")
    (member,) = deployment.members().values()
    assert sorted(member["adapters_loaded"]) == sorted(ADAPTERS)  # two at once, as the server says it has
