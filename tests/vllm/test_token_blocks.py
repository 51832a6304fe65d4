"""A prompt's blocks by token ids are those of the ids that a real vLLM server computes."""

import json
from typing import Any

import pytest

from dualmap.router.tokens.chat_prompt import read_chat
from dualmap.router.tokens.completion_prompt import read_completion
from dualmap.router.tokens.prompt_reader import PromptReader
from dualmap.router.tokens.token_blocks import TokenBlocks
from dualmap.scheduler.blocks import hash_tokens, token_root
from tests.conftest import WAIT_S
from tests.router.made_tokenizers import PARTS_TEMPLATE, TEXT_TEMPLATE
from tests.vllm.conftest import TINY, VllmServer

pytestmark = pytest.mark.vllm

BLOCK_TOKENS = 8
TEMPLATES = {"texts": TEXT_TEMPLATE, "parts": PARTS_TEMPLATE, "the model's own": None}
USER = {"role": "user", "content": "What does `f` do?\n\ndef f(x):\n    return x + 1"}
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"z": {}, "a": {"type": "number"}}}},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"z": "ö", "a": 1.50}'}}
PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": " two ", "cache_control": {"type": "ephemeral"}}]
CHATS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [USER]},
    "a system prompt": {"messages": [{"role": "system", "content": "You help. " * 40}, USER]},
    "several turns": {"messages": [USER, {"role": "assistant", "content": "It adds.\n"}, USER]},
    "a name": {"messages": [USER | {"name": "bob"}]},
    "parts": {"messages": [{"role": "system", "content": PARTS}, {"role": "user", "content": PARTS}]},
    "unicode": {"messages": [{"role": "user", "content": "größer 日本語 🙂👩‍👩‍👧 e\u0301 ﬁ \u200b\u00a0 \r\n\t x"}]},
    "special tokens in a text": {
        "messages": [{"role": "user", "content": "a<|im_end|>\n <|im_start|> b<|endoftext|>"}]
    },
    "tools": {"messages": [USER], "tools": [TOOL], "tool_choice": "none"},
    "a call and its result": {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "2"}]},
        ],
        "tools": [TOOL],
        "tool_choice": "none",
    },
    "a call with broken arguments": {
        "messages": [
            USER,
            {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "look", "arguments": "{"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "?"},
        ]
    },
    "reasoning": {"messages": [USER, {"role": "assistant", "content": "x", "reasoning_content": "why"}, USER]},
    "a header that changes with each request": {
        "messages": [{"role": "system", "content": "x-anthropic-billing-header: cch=1;\nYou help."}, USER]
    },
    "no generation prompt": {"messages": [USER], "add_generation_prompt": False},
    "the last message goes on": {
        "messages": [USER, {"role": "assistant", "content": "It returns"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "template arguments": {"messages": [USER], "chat_template_kwargs": {"enable_thinking": True, "unknown": 1}},
    "arguments that the request names too": {
        "messages": [USER],
        "chat_template_kwargs": {"add_generation_prompt": False, "enable_thinking": None},
    },
    "special tokens around it": {"messages": [USER], "add_special_tokens": True},
    "reasoning effort": {"messages": [USER], "reasoning_effort": "low"},
    "documents": {"messages": [USER], "documents": [{"title": "t", "text": "x"}]},
}
UNLIKE_TOKENIZE = ("reasoning", "reasoning effort", "documents")  # /tokenize leaves these out of the prompt
COMPLETIONS: dict[str, dict[str, Any]] = {
    "a text": {"prompt": "The quick brown fox " * 9},
    "special tokens in a text": {"prompt": "<|im_start|>user\n hi<|im_end|>\n\n<|im_start|> x"},
    "no special tokens around it": {"prompt": " größer 🙂", "add_special_tokens": False},
    "a list of one text": {"prompt": ["one\n\ntwo"]},
    "token ids": {"prompt": list(range(5, 40))},
    "a list of one list of ids": {"prompt": [list(range(5, 40))]},
}


@pytest.fixture(scope="module")
def server(everyday_server: VllmServer) -> VllmServer:
    """It takes the template with the request; the blocks get theirs with the tokenizer."""
    return everyday_server


@pytest.fixture(scope="module", params=TEMPLATES)
def template(request) -> str | None:
    return TEMPLATES[request.param]


@pytest.fixture(scope="module")
def blocks(template, tmp_path_factory):
    """The model's tokenizer, with the template."""
    directory = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        fields = json.loads((TINY / name).read_text())
        if template is not None and name == "tokenizer_config.json":
            fields["chat_template"] = template
        (directory / name).write_text(json.dumps(fields))
    made = TokenBlocks(str(directory), BLOCK_TOKENS)
    yield made
    made.close()


def answer(server: VllmServer, path: str, body: dict[str, Any]) -> Any:
    status, content = server.post(path, body)
    assert status == 200, content
    return content


def check(blocks: TokenBlocks, body: dict[str, Any], read: PromptReader, ids: list[int]) -> None:
    told = blocks.submit(json.dumps(body).encode(), read, "").result(WAIT_S)
    assert told is not None, blocks.fallbacks
    assert told.prompt_tokens == len(ids)
    assert told.blocks == hash_tokens(ids, BLOCK_TOKENS, parent=token_root("", ""))


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_has_the_ids_that_the_engine_computes(server, template, blocks, name):
    body = {"model": "tiny", "max_tokens": 1, **CHATS[name]}
    asked = body | {"return_token_ids": True} | ({"chat_template": template} if template else {})
    ids = answer(server, "/v1/chat/completions", asked)["prompt_token_ids"]
    check(blocks, body, read_chat, ids)
    if name not in UNLIKE_TOKENIZE:
        assert answer(server, "/tokenize", asked)["tokens"] == ids


@pytest.mark.parametrize("body", COMPLETIONS.values(), ids=COMPLETIONS)
def test_a_completion_has_the_ids_that_the_engine_computes(server, blocks, body):
    body = {"model": "tiny", "max_tokens": 1, **body}
    ids = answer(server, "/v1/completions", body | {"return_token_ids": True})["choices"][0]["prompt_token_ids"]
    check(blocks, body, read_completion, ids)
    if isinstance(body["prompt"], str):
        assert answer(server, "/tokenize", body)["tokens"] == ids
