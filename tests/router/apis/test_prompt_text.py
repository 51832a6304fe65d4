"""Equal prompts are equal however they are written, and those that differ are not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualmap.router.apis.api import Api
from dualmap.router.apis.chat import CHAT
from dualmap.router.apis.completions import COMPLETIONS
from dualmap.router.apis.generate import GENERATE
from dualmap.router.apis.messages import COUNT_TOKENS, MESSAGES
from dualmap.router.apis.read_body import ReadBody, Scope
from dualmap.router.apis.responses import RESPONSES
from dualmap.router.apis.spelling import BYTES_PER_BLOCK_TOKEN
from dualmap.router.http.http_request import HttpRequest

BLOCK_TOKENS = 16
BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_BLOCK_TOKEN
SYSTEM = "Tu réponds en français, « poliment » \U0001f642.\n" * 20
TOOL = {"name": "read", "description": "Reads a file. " * 40, "parameters": {"type": "object", "properties": {}}}


def read(api: Api, body: Any, scope: Scope | None = None) -> ReadBody:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return api.read(HttpRequest(0.0), data, scope or Scope(BLOCK_TOKENS))


def chat(*messages: Any, **fields: Any) -> ReadBody:
    return read(CHAT, {"model": "tiny", "messages": list(messages), **fields})


def said(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def shared(first: ReadBody, second: ReadBody) -> int:
    """So many leading blocks are the same."""
    count = 0
    for mine, other in zip(first.blocks, second.blocks, strict=False):
        if mine != other:
            break
        count += 1
    return count


def test_a_chat_is_the_same_in_every_spelling():
    body = {"model": "tiny", "messages": [said("system", SYSTEM), said("user", "Pourquoi ?")]}
    parts = [said(m["role"], [{"type": "text", "text": m["content"]}]) for m in body["messages"]]
    turned = [{"content": m["content"], "role": m["role"]} for m in body["messages"]]
    with_nulls = [said("system", SYSTEM), said("user", "Pourquoi ?", name=None, tool_calls=None, refusal=None)]
    spellings = [
        json.dumps(body, separators=(",", ":"), ensure_ascii=False),
        json.dumps(body, indent=2),
        json.dumps({"messages": turned, "model": "tiny"}),
        json.dumps(body | {"messages": parts}),
        json.dumps(body | {"messages": with_nulls}),
    ]
    blocks = {read(CHAT, spelling.encode()).blocks for spelling in spellings}
    assert len(blocks) == 1
    assert len(blocks.pop()) > 3


def test_a_chat_is_the_same_over_every_api():
    tools = [said("user", "Read it."), said("assistant", "Yes.", tool_calls=[call("read", '{"path": "a", "n": 1}')])]
    tools.append({"role": "tool", "tool_call_id": "c1", "content": "The file."})
    over_chat = chat(said("system", SYSTEM), *tools)
    over_messages = read(
        MESSAGES,
        {
            "model": "tiny",
            "system": [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}],
            "messages": [
                said("user", "Read it."),
                said(
                    "assistant",
                    [
                        {"type": "text", "text": "Yes."},
                        {"type": "tool_use", "id": "c1", "name": "read", "input": {"n": 1, "path": "a"}},
                    ],
                ),
                said("user", [{"type": "tool_result", "tool_use_id": "c1", "content": "The file."}]),
            ],
        },
    )
    over_responses = read(
        RESPONSES,
        {
            "model": "tiny",
            "instructions": SYSTEM,
            "input": [
                said("user", [{"type": "input_text", "text": "Read it."}]),
                {"type": "message", **said("assistant", [{"type": "output_text", "text": "Yes.", "annotations": []}])},
                {"type": "function_call", "call_id": "c1", "name": "read", "arguments": '{"n":1,"path":"a"}'},
                {"type": "function_call_output", "call_id": "c1", "output": "The file."},
            ],
        },
    )
    assert over_chat.blocks == over_messages.blocks == over_responses.blocks
    assert over_chat.text_bytes == over_messages.text_bytes == over_responses.text_bytes


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    "other",
    [
        [said("user", "u" * 500 + "!")],
        [said("assistant", "u" * 500)],
        [said("user", "u" * 500, name="Ada")],
        [said("user", [{"type": "text", "text": "u" * 250}, {"type": "text", "text": "u" * 250}])],
        [said("user", "u" * 500, tool_calls=[call("a", "{}")])],
    ],
)
def test_chats_that_differ_differ(other):
    one, two = chat(said("user", "u" * 500)), chat(*other)
    assert one.blocks != two.blocks


@pytest.mark.parametrize("scope", [{"model": "other"}, {"cache_salt": "s"}, {"tools": [{"type": "function"}]}])
def test_nothing_is_shared_across_models_salts_and_tools(scope):
    message = said("user", "u" * 500)
    assert not set(chat(message).blocks) & set(chat(message, **scope).blocks)


def test_two_tenants_who_are_kept_apart_share_nothing_and_choose_no_salt_to_do_so():
    body = {"model": "tiny", "messages": [said("user", "u" * 500)], "cache_salt": "s"}
    a, b = (read(CHAT, body, Scope(BLOCK_TOKENS, apart=tenant)) for tenant in ("a", "b"))
    assert not set(a.blocks) & set(b.blocks)
    assert a.cache_salt != b.cache_salt


def test_the_blocks_of_a_chat_are_a_prefix_of_those_of_its_next_turn():
    messages = [said("system", "s" * 100), said("user", "u" * 300)]
    first = chat(*messages)
    second = chat(*messages, said("assistant", "a" * 200), said("user", "v" * 200))
    assert len(second.blocks) > len(first.blocks) > 3
    assert shared(first, second) == len(first.blocks)


def test_a_short_chat_has_its_key_from_the_first_turn_on():
    first = chat(said("user", "hi"))
    assert len(first.blocks) == 1
    assert chat(said("user", "hi"), said("assistant", "hello"), said("user", "bye")).blocks[0] == first.blocks[0]


@pytest.mark.parametrize("least_shared", [BLOCK_BYTES // 2, BLOCK_BYTES, 3 * BLOCK_BYTES + BLOCK_BYTES // 2])
def test_a_system_prompt_ends_a_block_of_its_own_where_it_is_long_enough_to_be_found(least_shared):
    one, two = (chat(said("system", "s" * least_shared), said("user", text * 300)) for text in "ab")
    assert shared(one, two) == -(-least_shared // BLOCK_BYTES)


def test_a_short_system_prompt_makes_no_crowd_of_all_who_have_it():
    one, two = (chat(said("system", "Be nice."), said("user", text * 300)) for text in "ab")
    assert shared(one, two) == 0


def test_tools_are_blocks_in_front_in_any_order_of_their_keys():
    turned = dict(reversed(TOOL.items()))
    one = chat(said("user", "a" * 300), tools=[{"type": "function", "function": TOOL}])
    two = chat(said("user", "b" * 300), tools=[{"function": turned, "type": "function"}])
    assert shared(one, two) >= len(TOOL["description"]) // BLOCK_BYTES
    assert one.text_bytes > 300 + len(TOOL["description"])


def test_tools_that_are_no_text_are_hashed_as_they_are():
    assert read(CHAT, b'{"messages":[{"role":"user","content":"a"}],"tools":["\xa7"]}').blocks


def test_tools_are_the_same_over_every_api():
    function = TOOL | {"parameters": {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}}}
    turned = {"properties": {"b": {}, "a": {"type": "string"}}}
    of_chat = {"function": {**function, "strict": None}, "type": "function"}
    of_responses = {"type": "function", "strict": None, **function}
    of_messages = {"name": "read", "description": TOOL["description"], "input_schema": turned}
    cached = of_messages | {"type": "custom", "cache_control": {"type": "ephemeral"}}
    asks = [said("user", "Read it.")]
    blocks = {
        chat(*asks, tools=[of_chat]).blocks,
        read(RESPONSES, {"model": "tiny", "input": asks, "tools": [of_responses]}).blocks,
        read(MESSAGES, {"model": "tiny", "messages": asks, "tools": [of_messages]}).blocks,
        read(MESSAGES, {"model": "tiny", "messages": asks, "tools": [cached]}).blocks,
    }
    assert len(blocks) == 1
    assert chat(*asks, tools=[{"type": "function", "function": function | {"strict": True}}]).blocks not in blocks
    searches = [read(MESSAGES, {"model": "tiny", "messages": asks, "tools": [{"type": t}]}).blocks for t in "ab"]
    assert searches[0] != searches[1]


def test_documents_are_part_of_a_chat():
    def about(text: str) -> ReadBody:
        return chat(said("user", "Which?"), documents=[{"title": "One", "text": text}])

    one = about("It is said. " * 100)
    assert one.text_bytes > 1200
    assert one.blocks == about("It is said. " * 100).blocks != about("It is not said. " * 100).blocks


def test_a_developer_is_the_system():
    def led_by(role: str) -> tuple[Any, ...]:
        messages = [said(role, SYSTEM), said("user", "Why?")]
        return chat(*messages).blocks, read(RESPONSES, {"model": "tiny", "input": messages}).blocks

    assert led_by("developer") == led_by("system") != led_by("user")


def test_the_line_that_claude_code_changes_with_every_request_is_left_out():
    def turn(number: int) -> ReadBody:
        header = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2; cch={number};"}
        system = [header, {"type": "text", "text": SYSTEM}]
        return read(MESSAGES, {"model": "tiny", "system": system, "messages": [said("user", "hi")]})

    assert turn(1).blocks == turn(2).blocks


def test_token_ids_are_the_same_however_they_are_spaced_and_over_both_apis():
    ids = list(range(1000, 1500))
    tight = read(COMPLETIONS, b'{"model":"tiny","prompt":[%b]}' % ",".join(map(str, ids)).encode())
    spaced = read(COMPLETIONS, {"model": "tiny", "prompt": ids})
    generated = read(GENERATE, {"model": "tiny", "token_ids": ids, "sampling_params": {"max_tokens": 7}})
    assert tight.blocks == spaced.blocks == generated.blocks
    assert len(tight.blocks) == 500 // BLOCK_TOKENS
    assert tight.prompt_tokens == generated.prompt_tokens == 500
    assert generated.max_output_tokens == 7
    longer = read(COMPLETIONS, {"model": "tiny", "prompt": [*ids, 7, 8, 9]})
    assert shared(tight, longer) == len(tight.blocks)


def test_texts_have_no_exact_length():
    assert read(COMPLETIONS, {"prompt": "1, 2, 3"}).prompt_tokens == 0
    assert read(COMPLETIONS, {"prompt": ["a, b", "c"]}).prompt_tokens == 0
    assert read(COMPLETIONS, {"prompt": [[1, 2], [3]]}).prompt_tokens == 3


def test_counting_tokens_goes_where_the_prompt_belongs_and_leaves_nothing_in_its_cache():
    body = {"model": "tiny", "messages": [said("user", "u" * 500)]}
    counted = read(COUNT_TOKENS, body)
    assert counted.blocks == read(MESSAGES, body).blocks
    assert not counted.cached


@pytest.mark.parametrize("value", [16, 16.0, "16", "16.0"])
def test_numbers_are_taken_as_vllm_takes_them(value):
    read_body = chat(said("user", "hi"), max_tokens=value, stream=1, priority=value)
    assert (read_body.max_output_tokens, read_body.stream, read_body.priority) == (16, True, 16)


ASKED = b'{"model":"tiny","messages":[{"role":"user","content":"Why?"}]'


@pytest.mark.parametrize("more", [b"NaN", b"[-Infinity,1e999]", b'"\\ud83d"', b"1" * 4000])
def test_what_python_takes_for_json_is_read(more):
    assert read(CHAT, b'%b,"more":%b}' % (ASKED, more)).blocks == read(CHAT, ASKED + b"}").blocks


def test_half_a_character_is_read():
    one = read(CHAT, b'{"model":"tiny\\ud83d","messages":[{"role":"user","content":"Why\\ude42?"}]}')
    assert (one.understood, one.model) == (True, "tiny?")


@pytest.mark.parametrize("field", ["prompt_cache_key", "session_id"])
def test_a_session_is_what_the_body_names(field):
    assert chat(said("user", "hi"), **{field: "s-1"}).session == "s-1"


APIS = [CHAT, COMPLETIONS, RESPONSES, MESSAGES, COUNT_TOKENS, GENERATE]


@given(st.sampled_from(APIS), st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read(api, body):
    assert not read(api, body).understood or body.strip().startswith(b"{")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KINDS = ["text", "image_url", "input_image", "image", "tool_use", "tool_result", "thinking", "input_audio", "file"]
PART = JSON | st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS) | JSON},
    optional=dict.fromkeys(("text", "image_url", "source", "input", "content", "input_audio", "thinking"), JSON),
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | JSON, "content": st.lists(PART) | JSON},
    optional={"tool_calls": JSON | st.lists(st.fixed_dictionaries({"function": JSON})), "name": JSON, "type": JSON},
)
FIELDS = [
    "model",
    "prompt",
    "stream",
    "max_tokens",
    "priority",
    "cache_salt",
    "tools",
    "system",
    "metadata",
    "token_ids",
]
BODY = st.dictionaries(st.sampled_from(FIELDS), JSON)


@given(st.sampled_from(APIS), BODY, JSON | st.lists(MESSAGE))
def test_any_combination_of_types_is_read(api, fields, messages):
    one = read(api, fields | {"messages": messages, "input": messages})
    assert one.understood or not one.blocks
    assert one.hashed_bytes >= one.text_bytes >= 0
