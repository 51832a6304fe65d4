"""Prompts of messages, of responses and of token ids have the ids that a real vLLM server computes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dualmap.router.tokens.generate_prompt import read_generate
from dualmap.router.tokens.messages_prompt import read_messages
from dualmap.router.tokens.prompt_reader import PromptReader
from dualmap.router.tokens.responses_prompt import read_responses
from dualmap.router.tokens.token_blocks import TokenBlocks
from dualmap.scheduler.blocks import hash_tokens, token_root
from tests.conftest import WAIT_S
from tests.vllm.conftest import CHAT_TEMPLATES, TINY, VllmServer

pytestmark = pytest.mark.vllm

BLOCK_TOKENS = 8
USER = {"role": "user", "content": "What does `f` do?\n\ndef f(x):\n    return x + 1"}
SCHEMA = {"type": "object", "properties": {"z": {}, "a": {"type": "number"}}}
ARGUMENTS = {"z": "ö", "a": 1.50}
RESULT = [{"type": "text", "text": "2"}, {"type": "text", "text": "3"}]
MESSAGES: dict[str, dict[str, Any]] = {
    "a text": {"messages": [USER]},
    "a system prompt": {"system": "You help. " * 40, "messages": [USER]},
    "a system prompt in blocks": {
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cch=1;"},
            {"type": "text", "text": "You help.\n", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be short."},
        ],
        "messages": [USER],
    },
    "a header in a system prompt that is a text": {
        "system": "x-anthropic-billing-header: cch=1;\nYou help.",
        "messages": [USER],
    },
    "what the system says later": {
        "system": "You help.",
        "messages": [USER, {"role": "system", "content": [{"type": "text", "text": " Be short."}]}, USER],
    },
    "several blocks": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": " two "}]}]
    },
    "nothing in a block": {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}, USER]},
    "several turns": {
        "messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "It adds.\n"}]}, USER]
    },
    "tools": {
        "messages": [USER],
        "tools": [
            {"name": "look", "description": "looks", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}},
            {"name": "find", "input_schema": {"properties": {"b": {}, "a": {}}}, "strict": True},
        ],
    },
    "tools that must not be called": {
        "messages": [USER],
        "tools": [{"name": "look", "input_schema": SCHEMA}],
        "tool_choice": {"type": "none"},
    },
    "no tools": {"messages": [USER], "tools": []},
    "a call and its result": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "name": "look", "id": "c1", "input": ARGUMENTS},
                    {"type": "tool_use", "id": "c2", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": RESULT},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "4", "is_error": True},
                    {"type": "text", "text": "and?"},
                ],
            },
        ],
        "tools": [{"name": "look", "input_schema": SCHEMA}],
    },
    "a result without content": {
        "messages": [
            USER,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1"}]},
        ]
    },
    "thoughts": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "?"},
                    {"type": "text", "text": "x"},
                ],
            },
            USER,
        ]
    },
    "no thinking": {"messages": [USER], "thinking": {"type": "disabled"}},
    "thinking": {"messages": [USER], "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048},
    "effort": {"messages": [USER], "output_config": {"effort": "xhigh"}, "thinking": {"type": "adaptive"}},
    "template arguments": {"messages": [USER], "chat_template_kwargs": {"enable_thinking": True, "unknown": 1}},
}
FUNCTION = {"type": "function", "name": "look", "description": "looks", "strict": True, "parameters": SCHEMA}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": json.dumps(ARGUMENTS)}
OUTPUT_TEXT = {"type": "output_text", "text": "It adds.\n", "annotations": []}
RESPONSES: dict[str, dict[str, Any]] = {
    "a text": {"input": "What does `f` do?"},
    "instructions": {"input": [USER], "instructions": "You help. " * 40},
    "parts": {
        "input": [
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": " two "}],
            }
        ]
    },
    "a system's item": {"input": [{"role": "system", "content": "You help."}, USER]},
    "several turns": {
        "input": [USER, {"type": "message", "role": "assistant", "content": [OUTPUT_TEXT, OUTPUT_TEXT]}, USER]
    },
    "an answer as it came": {
        "input": [
            USER,
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [OUTPUT_TEXT | {"logprobs": None}],
                "phase": None,
            },
            USER,
        ]
    },
    "answers that are texts": {
        "input": [USER, {"role": "assistant", "content": "one"}, {"role": "assistant", "content": "two"}, USER]
    },
    "tools": {
        "input": [USER],
        "tools": [FUNCTION, FUNCTION | {"name": "find", "strict": None, "parameters": {"properties": {}}}],
    },
    "tools of the server and of a namespace": {
        "input": [USER],
        "tools": [
            {"type": "web_search"},
            {
                "type": "namespace",
                "name": "n",
                "description": "d",
                "tools": [{key: FUNCTION[key] for key in ("type", "name", "parameters")}],
            },
        ],
    },
    "only tools of the server": {"input": [USER], "tools": [{"type": "web_search"}]},
    "no tools": {"input": [USER], "tools": []},
    "calls and their results": {
        "input": [
            USER,
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            CALL,
            CALL | {"call_id": "c2", "id": "fc_2", "status": "completed"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
            {"type": "message", "role": "assistant", "content": [OUTPUT_TEXT]},
            CALL | {"call_id": "c3"},
            {"type": "function_call_output", "call_id": "c3", "output": "3"},
        ],
        "tools": [FUNCTION],
    },
    "a summary of reasoning": {
        "input": [
            USER,
            {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "in short"}]},
            {"role": "assistant", "content": "x"},
            USER,
        ]
    },
    "effort": {"input": [USER], "reasoning": {"effort": "low"}},
    "an answer that goes on": {
        "input": [USER, {"type": "message", "role": "assistant", "status": "incomplete", "content": [OUTPUT_TEXT]}]
    },
    "template arguments": {"input": [USER], "chat_template_kwargs": {"enable_thinking": True}},
}


@pytest.fixture(scope="module", params=CHAT_TEMPLATES)
def template(request: pytest.FixtureRequest) -> str:
    """Its name."""
    return request.param


@pytest.fixture(scope="module")
def server(template_servers: dict[str, VllmServer], template: str) -> VllmServer:
    return template_servers[template]


@pytest.fixture(scope="module")
def blocks(template, tmp_path_factory) -> Iterator[TokenBlocks]:
    """The model's tokenizer, with the template."""
    directory = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        fields = json.loads((TINY / name).read_text())
        if name == "tokenizer_config.json":
            fields["chat_template"] = CHAT_TEMPLATES[template]
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


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_have_the_ids_that_the_engine_computes(server, blocks, name):
    body = {"model": "tiny", "max_tokens": 1, **MESSAGES[name]}
    ids = answer(server, "/v1/messages/render", body)["token_ids"]
    check(blocks, body, read_messages, ids)
    assert answer(server, "/v1/messages/count_tokens", body)["input_tokens"] == len(ids)


@pytest.mark.parametrize("name", RESPONSES)
def test_responses_have_the_ids_that_the_engine_computes(server, blocks, name):
    body = {"model": "tiny", "max_output_tokens": 1, **RESPONSES[name]}
    ids = answer(server, "/v1/responses/render", body)["token_ids"]
    check(blocks, body, read_responses, ids)
    assert answer(server, "/v1/responses", body)["usage"]["input_tokens"] == len(ids)


def test_an_answer_counts_the_tokens_of_its_message(server, blocks):
    body = {"model": "tiny", "max_tokens": 1, **MESSAGES["a call and its result"]}
    usage = answer(server, "/v1/messages", body)["usage"]
    told = blocks.submit(json.dumps(body).encode(), read_messages, "").result(WAIT_S)
    parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    assert sum(usage[part] for part in parts) == told.prompt_tokens


def test_token_ids_are_computed_as_they_are(server, blocks):
    ids = list(range(5, 90))
    body = {"model": "tiny", "token_ids": ids, "sampling_params": {"max_tokens": 1}, "return_token_ids": True}
    assert answer(server, "/inference/v1/generate", body)["prompt_token_ids"] == ids
    check(blocks, body, read_generate, ids)
