"""Bodies of other APIs than chats have the tokens of the chat that vLLM makes of them.

What vLLM makes of them is checked against vLLM itself in tests/vllm/test_api_prompts.py; here is what needs no server.
"""

import json
from collections.abc import Iterator

import pytest

from dualmap.router.tokens.chat_messages import UnsupportedPromptError
from dualmap.router.tokens.chat_prompt import ChatRequest, read_chat
from dualmap.router.tokens.chat_template import ChatTemplate
from dualmap.router.tokens.generate_prompt import read_generate
from dualmap.router.tokens.messages_prompt import read_messages
from dualmap.router.tokens.prompt_reader import PromptReader
from dualmap.router.tokens.responses_prompt import read_responses
from dualmap.router.tokens.token_blocks import Fallback, TokenBlocks, TokenizedPrompt
from dualmap.scheduler.blocks import hash_tokens, token_root
from tests.conftest import WAIT_S
from tests.router.made_tokenizers import BOS, PARTS_TEMPLATE, STOP, TEXT_TEMPLATE, make_tokenizer, save_tokenizer

BLOCK_TOKENS = 4
USER = {"role": "user", "content": "hello, größer 日本語"}
SYSTEM = {"role": "system", "content": "You help."}
SCHEMA = {"type": "object", "properties": {"z": {}, "a": {"type": "number"}}}
FUNCTION = {"name": "look", "description": "looks", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"z": "ö", "a": 1.5}'}}
USE = {"type": "tool_use", "id": "c1", "name": "look", "input": {"z": "ö", "a": 1.5}}
LATE_SYSTEM_REFUSED = (
    "{% for message in messages %}{% if message.role == 'system' and not loop.first %}"
    "{{ raise_exception('the system speaks first') }}{% endif %}{{ '<|im_start|>' + message.role + message.content }}"
    "{% endfor %}"
)
EFFORT_SHOWN = TEXT_TEMPLATE + "{{ reasoning_effort }}"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Iterator[TokenBlocks]:
    made = TokenBlocks(save_tokenizer(tmp_path_factory.mktemp("text")), BLOCK_TOKENS)
    yield made
    made.close()


def ask(blocks: TokenBlocks, body: dict, read: PromptReader) -> TokenizedPrompt | None:
    return blocks.submit(json.dumps(body).encode(), read, "").result(WAIT_S)


def template_of(template: str) -> ChatTemplate:
    return ChatTemplate(make_tokenizer(template=template))


def messages_of(body: dict, template: str = TEXT_TEMPLATE) -> list[dict]:
    chat = read_messages(json.dumps(body).encode(), template_of(template))
    assert isinstance(chat, ChatRequest)
    return chat.messages


MESSAGES = {  # what Anthropic's clients send -> the same as a chat
    "a text": ({"messages": [USER]}, {"messages": [USER]}),
    "a system prompt": ({"system": "You help.", "messages": [USER]}, {"messages": [SYSTEM, USER]}),
    "a system prompt in blocks": (
        {"system": [{"type": "text", "text": "You "}, {"type": "text", "text": "help."}], "messages": [USER]},
        {"messages": [SYSTEM, USER]},
    ),
    "a header that changes with each request": (
        {"system": [{"type": "text", "text": "x-anthropic-billing-header: cch=1;"},
                    {"type": "text", "text": "You help."}],
         "messages": [USER]},
        {"messages": [SYSTEM, USER]},
    ),
    "blocks marked for a cache": (
        {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}
        ]}]},
        {"messages": [{"role": "user", "content": "a\nb"}]},
    ),
    "tools": ({"messages": [USER], "tools": [{"name": "look", "description": "looks", "input_schema": SCHEMA}]},
              {"messages": [USER], "tools": [TOOL]}),
    "a schema without a type": (
        {"messages": [USER], "tools": [{"name": "look", "input_schema": {"properties": {}}}]},
        {"messages": [USER], "tools": [{"type": "function", "function": {
            "name": "look", "parameters": {"properties": {}, "type": "object"}}}]},
    ),
    "a call and its result": (
        {"messages": [
            USER,
            {"role": "assistant", "content": [{"type": "text", "text": "I look."}, USE]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "2"}]},
                {"type": "text", "text": "and?"},
            ]},
        ]},
        {"messages": [
            USER,
            {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
            {"role": "user", "content": "and?"},
        ]},
    ),
    "a result alone makes no message of the user": (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "2"}]}]},
        {"messages": [{"role": "tool", "tool_call_id": "c1", "content": "2"}]},
    ),
    "thoughts": (
        {"messages": [USER, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "redacted_thinking", "data": "?"},
            {"type": "text", "text": "x"},
        ]}, USER]},
        {"messages": [USER, {"role": "assistant", "content": "x", "reasoning": "hm"}, USER]},
    ),
    "effort": (
        {"messages": [USER], "output_config": {"effort": "low"}},
        {"messages": [USER], "reasoning_effort": "low"},
    ),
    "template arguments": (
        {"messages": [USER], "chat_template_kwargs": {"enable_thinking": True}},
        {"messages": [USER], "chat_template_kwargs": {"enable_thinking": True}},
    ),
}  # fmt: skip
RESPONSES = {
    "a text": ({"input": "hi"}, {"messages": [{"role": "user", "content": "hi"}]}),
    "instructions": ({"input": [USER], "instructions": "You help."}, {"messages": [SYSTEM, USER]}),
    "parts": (
        {"input": [{"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "a", "more": 1}, {"type": "input_text", "text": "b"}]}]},
        {"messages": [{"role": "user", "content": "a\nb"}]},
    ),
    "an answer before": (
        {"input": [USER, {"type": "message", "role": "assistant",
                          "content": [{"type": "output_text", "text": "x"}]}, USER]},
        {"messages": [USER, {"role": "assistant", "content": "x"}, USER]},
    ),
    "tools of the server are not shown": (
        {"input": [USER], "tools": [{"type": "function", "strict": None, **FUNCTION}, {"type": "web_search"}]},
        {"messages": [USER], "tools": [TOOL]},
    ),
    "a function of a namespace": (
        {"input": [USER], "tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", **FUNCTION}]}]},
        {"messages": [USER], "tools": [{"type": "function", "function": FUNCTION | {"name": "n__look"}}]},
    ),
    "no tools": ({"input": [USER], "tools": []}, {"messages": [USER]}),
    "reasoning": (
        {"input": [USER], "reasoning": {"effort": "high", "summary": "auto"}},
        {"messages": [USER], "reasoning_effort": "high"},
    ),
    "an answer that goes on": (
        {"input": [USER, {"type": "message", "role": "assistant", "status": "incomplete",
                          "content": [{"type": "output_text", "text": "It"}]}]},
        {"messages": [USER, {"role": "assistant", "content": "It"}],
         "continue_final_message": True, "add_generation_prompt": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "chat"), MESSAGES.values(), ids=MESSAGES)
def test_messages_have_the_tokens_of_the_chat_they_stand_for(blocks, body, chat):
    told = ask(blocks, {"model": "tiny", "max_tokens": 9, **body}, read_messages)
    assert told is not None
    assert told == ask(blocks, chat, read_chat)


@pytest.mark.parametrize(("body", "chat"), RESPONSES.values(), ids=RESPONSES)
def test_responses_have_the_tokens_of_the_chat_they_stand_for(blocks, body, chat):
    told = ask(blocks, {"model": "tiny", **body}, read_responses)
    assert told is not None
    assert told == ask(blocks, chat, read_chat)


def test_an_assistants_message_is_put_together_of_the_items_that_follow_each_other():
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    items = [
        USER,
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "content": "I look."},
        call,
        call | {"call_id": "c2", "namespace": "n"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        call | {"call_id": "c3"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "in short"}]},
        {"role": "assistant", "content": "one"},
        {"role": "assistant", "content": "two"},
    ]
    chat = read_responses(json.dumps({"input": items}).encode(), None)
    assert chat.messages == [
        USER,
        {
            "role": "assistant",
            "reasoning": "hm",
            "content": "I look.",
            "tool_calls": [
                {"id": "c1", "function": {"name": "look", "arguments": "{}"}, "type": "function"},
                {"id": "c2", "function": {"name": "n__look", "arguments": "{}"}, "type": "function"},
            ],
        },
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "tool", "content": [{"type": "text", "text": "2"}], "tool_call_id": "c2"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c3", "function": {"name": "look", "arguments": "{}"}, "type": "function"}],
            "reasoning": "in short",
            "content": "one",
        },
        {"role": "assistant", "content": "two"},
    ]


def test_responses_alone_have_the_special_tokens_around_them(tmp_path):
    blocks = TokenBlocks(save_tokenizer(tmp_path, around=True), BLOCK_TOKENS)
    tokenizer = make_tokenizer()
    ids = tokenizer.apply_chat_template([USER], tokenize=True, return_dict=False, add_generation_prompt=True)
    first, last = (tokenizer.convert_tokens_to_ids(token) for token in (BOS, STOP))
    assert ask(blocks, {"input": [USER]}, read_responses).prompt_tokens == len(ids) + 2
    assert ask(blocks, {"input": [USER]}, read_responses).blocks == hash_tokens(
        [first, *ids, last], BLOCK_TOKENS, parent=token_root("", "")
    )
    assert ask(blocks, {"messages": [USER]}, read_messages).prompt_tokens == len(ids)
    blocks.close()


LATE = {"system": "You help.", "messages": [USER, {"role": "system", "content": " Be short."}, USER]}


@pytest.mark.parametrize("template", [TEXT_TEMPLATE, PARTS_TEMPLATE])
def test_what_the_system_says_later_stays_where_it_is(template):
    assert messages_of(LATE, template) == [SYSTEM, USER, {"role": "system", "content": " Be short."}, USER]


def test_what_the_system_says_later_is_merged_where_the_template_refuses_it():
    assert messages_of(LATE, LATE_SYSTEM_REFUSED) == [{"role": "system", "content": "You help. Be short."}, USER, USER]


@pytest.mark.parametrize(
    ("template", "effort"),
    [
        (EFFORT_SHOWN, "none"),
        (TEXT_TEMPLATE, "none"),  # it knows enable_thinking, which follows from the effort
        (PARTS_TEMPLATE, "low"),  # it knows neither
        (EFFORT_SHOWN + "{% if reasoning_effort == 'none' %}{{ raise_exception('?') }}{% endif %}", "low"),
    ],
)
def test_thinking_is_turned_off_by_the_least_effort_that_the_template_knows(template, effort):
    body = {"messages": [USER], "thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}
    chat = read_messages(json.dumps(body).encode(), template_of(template))
    assert chat.reasoning_effort == effort


def test_token_ids_are_taken_as_they_are(blocks):
    ids = list(range(5, 40))
    told = ask(blocks, {"token_ids": ids, "sampling_params": {"max_tokens": 1}, "cache_salt": "s"}, read_generate)
    assert told == TokenizedPrompt(hash_tokens(ids, BLOCK_TOKENS, parent=token_root("", "s")), len(ids))


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
UNTOLD = {
    "an image": ({"messages": [{"role": "user", "content": [IMAGE]}]}, read_messages),
    "an image as a result": (
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [IMAGE]}]}]},
        read_messages,
    ),
    "a call without an id": (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {}}]}]},
        read_messages,
    ),
    "a result in an answer": (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_result", "content": "x"}]}]},
        read_messages,
    ),
    "a tool of Anthropic's": (
        {"messages": [USER], "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        read_messages,
    ),
    "a tool that comes later": (
        {"messages": [USER, {"role": "system", "content": [{"type": "tool_addition", "tool": {"name": "f"}}]}]},
        read_messages,
    ),
    "a tool that is loaded later": (
        {"messages": [USER], "tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]},
        read_messages,
    ),
    "what the instance has stored": ({"input": "hi", "previous_response_id": "resp_1"}, read_responses),
    "a prompt by its name": ({"input": "hi", "prompt": {"id": "p"}}, read_responses),
    "a truncation": ({"input": "hi", "truncation": "auto"}, read_responses),
    "an input image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]},
        read_responses,
    ),
    "encrypted reasoning": (
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
        read_responses,
    ),
    "an item that is stored": ({"input": [{"type": "item_reference", "id": "i"}]}, read_responses),
    "an unfinished question": ({"input": [USER | {"type": "message", "status": "incomplete"}]}, read_responses),
    "a custom tool": ({"input": "hi", "tools": [{"type": "custom", "name": "patch"}]}, read_responses),
    "a refusal": (
        {"input": [{"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]},
        read_responses,
    ),
    "media among ids": ({"token_ids": [1], "features": {"mm_hashes": {"image": ["x"]}}}, read_generate),
}


@pytest.mark.parametrize(("body", "read"), UNTOLD.values(), ids=UNTOLD)
def test_what_only_the_instance_can_tell_is_unsupported(tmp_path_factory, body, read):
    blocks = TokenBlocks(save_tokenizer(tmp_path_factory.mktemp("untold")), BLOCK_TOKENS)
    assert ask(blocks, body, read) is None
    assert {why for why, count in blocks.fallbacks.items() if count} == {Fallback.UNSUPPORTED}
    blocks.close()


@pytest.mark.parametrize("read", [read_messages, read_responses, read_generate])
def test_what_is_no_body_of_the_api_is_malformed(blocks, read):
    before = blocks.fallbacks[Fallback.MALFORMED]
    assert ask(blocks, {"prompt": "hi"}, read) is None
    assert blocks.fallbacks[Fallback.MALFORMED] == before + 1


def test_a_client_cannot_say_how_vllm_reads_it():
    body = {"messages": [USER], "typed": False}
    assert read_chat(json.dumps(body).encode(), None).typed
    with pytest.raises(UnsupportedPromptError):
        read_responses(json.dumps({"input": "hi", "previous_input_messages": [USER]}).encode(), None)
