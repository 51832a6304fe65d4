"""Before simulated instances a gateway knows prompts by the tokens that these compute, as their KV events name them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dualmap.router.tokens.chat_prompt import read_chat
from dualmap.router.tokens.completion_prompt import read_completion
from dualmap.router.tokens.generate_prompt import read_generate
from dualmap.router.tokens.messages_prompt import read_messages
from dualmap.router.tokens.responses_prompt import read_responses
from dualmap.router.tokens.token_blocks import Fallback, TokenBlocks
from tests.conftest import WAIT_S
from tests.deployment import free_port
from tests.instances.conftest import SimProcess, starting_sims
from tests.kv_follower import BLOCK_TOKENS, Follower

WORDS = "größer, 日本語, and so on; " * 60
USER = {"role": "user", "content": WORDS}
PARTS = {"role": "user", "content": [{"type": "text", "text": WORDS}, {"type": "text", "text": WORDS}]}
TALK = [{"role": "system", "content": "You help."}, USER, {"role": "assistant", "content": "Yes."}, PARTS]
SCHEMA = {"type": "object", "properties": {"z": {}, "a": {"type": "number"}}}
FUNCTION = {"name": "look", "description": "ö", "parameters": SCHEMA}
PROMPT_COUNTS = ("prompt_tokens", "input_tokens", "cache_creation_input_tokens")  # of nothing that was cached
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
READERS = {
    CHAT: read_chat,
    "/v1/completions": read_completion,
    RESPONSES: read_responses,
    MESSAGES: read_messages,
    "/inference/v1/generate": read_generate,
}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": TALK}),
    "chat with tools": (CHAT, {"messages": [USER], "tools": [{"type": "function", "function": FUNCTION}]}),
    "chat of a system with tools": (CHAT, {"messages": TALK, "tools": [{"type": "function", "function": FUNCTION}]}),
    "chat, going on": (
        CHAT,
        {"messages": TALK[:3], "add_generation_prompt": False, "continue_final_message": True},
    ),
    "chat with a salt": (CHAT, {"messages": TALK, "cache_salt": "s"}),
    "completion": ("/v1/completions", {"prompt": WORDS}),
    "completion of ids": ("/v1/completions", {"prompt": list(range(300))}),
    "response": (RESPONSES, {"input": WORDS, "instructions": "You help."}),
    "response to a talk": (RESPONSES, {"input": [*TALK[1:3], USER]}),
    "message": (MESSAGES, {"messages": TALK[1:], "system": "You help.", "max_tokens": 1}),
    "message with tools": (
        MESSAGES,
        {"messages": [USER], "tools": [{"name": "look", "input_schema": SCHEMA}], "max_tokens": 1},
    ),
    "generate": ("/inference/v1/generate", {"token_ids": list(range(300)), "sampling_params": {}}),
}


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[SimProcess, Follower]]:
    port, replay_port = free_port(), free_port()
    ends = {"endpoint": f"tcp://*:{port}", "replay_endpoint": f"tcp://*:{replay_port}"}
    with starting_sims() as start:
        sim = start("--kv-events-config", json.dumps({"enable_kv_cache_events": True, **ends}))
        follower = Follower("", *ends.values())
        yield sim, follower
        follower.close()


@pytest.fixture(scope="module")
def blocks() -> Iterator[TokenBlocks]:
    made = TokenBlocks("simulated", BLOCK_TOKENS)
    yield made
    made.close()


@pytest.mark.parametrize("name", ASKED)
def test_the_blocks_of_a_prompt_are_those_that_its_instance_tells_of(name: str, told, blocks) -> None:
    path, body = ASKED[name]
    sim, follower = told
    assert sim.post("/reset_prefix_cache", {})[1] == {"success": True}
    status, answer = sim.post(path, {"model": "sim", **body})
    assert status == 200, answer
    prompt = blocks.submit(json.dumps(body).encode(), READERS[path], "").result(WAIT_S)
    assert prompt is not None
    assert len(prompt.blocks) >= 2
    follower.await_held(prompt.blocks)
    counted = sum(answer.get("usage", {}).get(name) or 0 for name in PROMPT_COUNTS)
    assert counted == prompt.prompt_tokens


def test_who_has_called_tools_is_known_by_the_text(blocks) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a": 1.50}'}}
    body = {"messages": [USER, {"role": "assistant", "content": "I look.", "tool_calls": [call]}]}
    before = blocks.fallbacks[Fallback.REFUSED]
    assert blocks.submit(json.dumps(body).encode(), read_chat, "").result(WAIT_S) is None
    assert blocks.fallbacks[Fallback.REFUSED] == before + 1
