"""A chat is the same prompt by whichever API it comes."""

import json
from typing import Any

import pytest

from dualmap.instances.simulated.apis.call import Call
from dualmap.instances.simulated.apis.chat import read_chat
from dualmap.instances.simulated.apis.messages import create_message
from dualmap.instances.simulated.apis.responses import create_response
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.media import MediaTokens
from dualmap.instances.simulated.served import Models, Served
from tests.vllm.lenient_bodies import CHAT, MESSAGES, RESPONSES

READERS = {CHAT: read_chat, RESPONSES: create_response, MESSAGES: create_message}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
PICTURE = "aGVsbG8gd29ybGQ="
DATA_URL = f"data:image/png;base64,{PICTURE}"
CALLED = {"name": "weather", "arguments": '{"city": "Rome"}'}

CHATS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {  # to chat, to responses, to messages
    "a question": (
        {"messages": [{"role": "user", "content": "hi"}]},
        {"input": "hi"},
        {"messages": [{"role": "user", "content": "hi"}]},
    ),
    "instructions and turns": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "yes?"},
                {"role": "user", "content": [{"type": "text", "text": "go "}, {"type": "text", "text": "on"}]},
            ]
        },
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": "hi"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yes?"}]},
                {
                    "role": "user",
                    "content": [{"type": "input_text", "text": "go "}, {"type": "input_text", "text": "on"}],
                },
            ],
        },
        {
            "system": [
                {"type": "text", "text": "x-anthropic-billing-header: 1"},
                {"type": "text", "text": "Be brief."},
            ],
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [{"type": "text", "text": "yes?"}]},
                {"role": "user", "content": "go on"},
            ],
        },
    ),
    "tools, a call and its result": (
        {
            "tools": [
                {"type": "function", "function": {"name": "weather", "description": "now", "parameters": SCHEMA}}
            ],
            "messages": [
                {"role": "user", "content": "Rome?"},
                {
                    "role": "assistant",
                    "content": "I look.",
                    "tool_calls": [{"id": "a", "type": "function", "function": CALLED}],
                },
                {"role": "tool", "tool_call_id": "a", "content": "sun"},
            ],
        },
        {
            "tools": [{"type": "function", "name": "weather", "description": "now", "parameters": SCHEMA}],
            "input": [
                {"role": "user", "content": "Rome?"},
                {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                {"role": "assistant", "content": "I look."},
                {"type": "function_call", "call_id": "a", **CALLED},
                {"type": "function_call_output", "call_id": "a", "output": "sun"},
            ],
        },
        {
            "tools": [{"name": "weather", "description": "now", "input_schema": SCHEMA}],
            "messages": [
                {"role": "user", "content": "Rome?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "text", "text": "I look."},
                        {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Rome"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "sun"}]}
                    ],
                },
            ],
        },
    ),
    "a picture": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What?"},
                        {"type": "image_url", "image_url": {"url": DATA_URL}},
                    ],
                }
            ]
        },
        {
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What?"},
                        {"type": "input_image", "image_url": DATA_URL},
                    ],
                }
            ]
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What?"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": PICTURE},
                        },
                    ],
                }
            ]
        },
    ),
}


@pytest.mark.parametrize("name", CHATS)
def test_all_three_apis_share_the_blocks_of_a_chat(name: str) -> None:
    served = Served(EngineProfile(block_size=4), Models("sim"), MediaTokens())
    limits = {CHAT: {"max_tokens": 9}, RESPONSES: {"max_output_tokens": 9}, MESSAGES: {"max_tokens": 9}}
    choices = [
        read(Call(json.dumps({"model": "sim", **limits[path], **body}).encode()), served).generation.choices
        for (path, read), body in zip(READERS.items(), CHATS[name], strict=True)
    ]
    assert choices[0] == choices[1] == choices[2]
    assert len(choices[0][0].blocks) > 3


def test_tools_are_part_of_the_prompt_before_the_first_message() -> None:
    served = Served(EngineProfile(block_size=4), Models("sim"), MediaTokens())
    plain, with_tools = (
        read_chat(Call(json.dumps(body).encode()), served).generation.choices[0]
        for body in (
            CHATS["a question"][0],
            CHATS["a question"][0] | {"tools": CHATS["tools, a call and its result"][0]["tools"]},
        )
    )
    assert with_tools.prompt_tokens > plain.prompt_tokens + len(json.dumps(SCHEMA)) // 4
    assert with_tools.blocks[:4] != plain.blocks[:4]
