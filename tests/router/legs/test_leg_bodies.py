"""What is changed of a request's body for each leg, as vLLM reads it: by Python, the last field of a name wins."""

import json
from typing import Any

import pytest

from dualmap.router.apis.api import Api
from dualmap.router.apis.chat import CHAT
from dualmap.router.apis.completions import COMPLETIONS
from dualmap.router.apis.generate import GENERATE
from dualmap.router.apis.messages import MESSAGES
from dualmap.router.apis.read_body import Scope
from dualmap.router.apis.responses import RESPONSES
from dualmap.router.legs.leg_body import leg_body
from tests.router.apis.test_prompt_text import BLOCK_TOKENS, read

PLAIN: list[tuple[Api, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": 'say "}" and {"max_tokens": 7}'}], "max_completion_tokens": 9}),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 9}),
    (COMPLETIONS, {"prompt": [1, 2]}),
    (MESSAGES, {"messages": [{"role": "user", "content": "a"}], "max_tokens": 9}),
    (RESPONSES, {"input": "a", "max_output_tokens": 9, "tools": [{"type": "function", "name": "f"}]}),
    (GENERATE, {"token_ids": [1, 2], "sampling_params": {"max_tokens": 9, "min_tokens": 3, "seed": 1}}),
    (GENERATE, {"token_ids": [1, 2], "sampling_params": {}}),
]
SCOPE = Scope(BLOCK_TOKENS, splits=True)


def prefill(api: Api, body: bytes) -> Any:
    assert api.one_token is not None
    return json.loads(leg_body(body, api.one_token(body), b'{"do_remote_decode":true}'))


@pytest.mark.parametrize(("api", "body"), PLAIN, ids=lambda value: getattr(value, "name", ""))
def test_the_prefill_leg_asks_for_one_token_and_no_stream(api, body):
    asked = {"model": "tiny", "stream": True, "x": 1.10} | body
    made = prefill(api, json.dumps(asked).encode())
    assert made.pop("kv_transfer_params") == {"do_remote_decode": True}
    assert made["stream"] is False
    most = made["sampling_params"] if api is GENERATE else made
    assert most["max_output_tokens" if api is RESPONSES else "max_tokens"] == 1
    if api is CHAT:
        assert made["max_completion_tokens"] == 1
    if api is GENERATE:
        assert most["min_tokens"] == 0
        assert most.get("seed") == body["sampling_params"].get("seed")
    kept = ("model", "x", "messages", "prompt", "input", "tools", "token_ids")
    assert {name: made[name] for name in kept if name in asked} == {n: asked[n] for n in kept if n in asked}


@pytest.mark.parametrize(
    "odd",
    [
        b'{"messages":[{"role":"user","content":"a"}],"stream":true,"stream":true,"max_tokens":5,"max_tokens":6}',
        b' {"max\\u005ftokens" : 5 , "str\\u0065am": true, "messages":[{"role":"user","content":"}"}]} \r\n',
        b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN,"max_tokens":5,"stream":true}',
        b'{"messages":[{"role":"user","content":"\\ud83d"}],"max_tokens":5,"min_tokens":3,"stream_options":{}}',
    ],
)
def test_json_that_few_write_becomes_what_vllm_reads_of_it(odd):
    assert read(CHAT, odd, SCOPE).splits
    made, plain = prefill(CHAT, odd), json.loads(odd)
    assert (made["max_tokens"], made["stream"], made["min_tokens"], made["stream_options"]) == (1, False, 0, None)
    assert made["messages"] == plain["messages"]
    assert made.keys() >= plain.keys()


def test_of_sampling_parameters_too():
    odd = b'{"token_ids":[1],"sampling_params": { "temperature" : NaN , "max_tokens" : 3 } }'
    assert read(GENERATE, odd, SCOPE).splits
    assert prefill(GENERATE, odd)["sampling_params"]["max_tokens"] == 1


def test_the_decode_leg_is_the_original_and_where_the_prompt_is():
    body = b'{"kv_transfer_params":null,"max_tokens":7,"n":1} '
    assert json.loads(leg_body(body, b"", b'{"b":2}')) == {"kv_transfer_params": {"b": 2}, "max_tokens": 7, "n": 1}


CHATS = {"messages": [{"role": "user", "content": "a"}]}
CONVERSATION = {"input": "a"}
IDS = {"token_ids": [1]}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("api", "body", "splits"),
    [
        *((api, body, True) for api, body in PLAIN),
        (COMPLETIONS, {"prompt": ["a"]}, False),
        (COMPLETIONS, {"prompt": [[1], [2]]}, False),
        (COMPLETIONS, {"prompt": "a", "echo": True}, False),
        (COMPLETIONS, {"prompt": "a", "use_beam_search": True}, False),
        (COMPLETIONS, {"prompt": "a", "best_of": 2}, False),
        (COMPLETIONS, {"prompt": "a", "best_of": 1, "echo": False, "prompt_logprobs": None}, True),
        (CHAT, CHATS | {"n": 2}, False),
        (CHAT, CHATS | {"n": "2"}, False),
        (CHAT, CHATS | {"n": 1}, True),
        (CHAT, CHATS | {"prompt_logprobs": 0}, False),
        (CHAT, CHATS | {"kv_transfer_params": {}}, False),
        (CHAT, {"messages": [{"role": "user", "content": [PICTURE]}]}, False),
        (MESSAGES, CHATS, False),  # vLLM refuses it: max_tokens is missing
        (GENERATE, IDS, False),
        (GENERATE, IDS | {"sampling_params": {"n": 2}}, False),
        (GENERATE, IDS | {"sampling_params": {"prompt_logprobs": 1}}, False),
        (RESPONSES, CONVERSATION | {"background": True}, False),
        (RESPONSES, CONVERSATION | {"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}, False),
        (RESPONSES, CONVERSATION | {"tools": {"a": 1}}, False),
        (RESPONSES, CONVERSATION | {"tools": []}, True),
        (RESPONSES, CONVERSATION | {"tools": None}, True),
        (RESPONSES, CONVERSATION | {"store": True}, True),
        (GENERATE, IDS | {"sampling_params": {"extra_args": {"kv_transfer_params": {}}}}, False),
        (GENERATE, IDS | {"sampling_params": {"extra_args": {"x": 1}}}, True),
        (GENERATE, IDS | {"sampling_params": {"prompt_logprob_token_ids": [1]}}, False),
    ],
)
def test_what_may_be_split(api, body, splits):
    assert read(api, {"model": "tiny"} | body, SCOPE).splits is splits
    assert not read(api, {"model": "tiny"} | body).splits, "where no instance has a role, nobody looks"


USAGE = {"include_usage": True}


@pytest.mark.parametrize(
    ("api", "fields", "splits"),
    [
        *(
            (api, fields, splits)
            for api in (CHAT, COMPLETIONS)
            for fields, splits in (
                ({"stream": True, "stream_options": USAGE}, True),
                ({"stream": True, "stream_options": USAGE | {"include_obfuscation": None}}, True),
                ({"stream": True, "stream_options": None}, True),
                ({"stream_options": {}}, True),
                ({"stream_options": USAGE}, False),
                ({"stream": False, "stream_options": USAGE}, False),
                ({"stream": True, "stream_options": [USAGE]}, False),
                ({"stream": True, "stream_options": {"include_usage": "if you like"}}, False),
                ({"stream_options": ""}, False),
                ({"max_tokens": 5, "min_tokens": 5}, True),
                ({"max_tokens": 5, "min_tokens": 6}, False),
                ({"max_tokens": 5, "min_tokens": -1}, False),
                ({"max_tokens": 5, "min_tokens": None}, False),
                ({"max_tokens": 5, "min_tokens": [1]}, False),
                ({"min_tokens": 1}, False),  # the server may have a lower number for those who say none
                ({"max_tokens": -1}, False),
                ({"max_tokens": "many"}, False),
                ({"stream": "perhaps"}, False),
                ({"return_token_ids": True}, True),
                ({"return_token_ids": None}, True),
                ({"return_token_ids": {}}, False),
            )
        ),
        (CHAT, {"max_completion_tokens": 5, "max_tokens": 9, "min_tokens": 6}, False),
        (GENERATE, {"sampling_params": {"max_tokens": 5, "min_tokens": 6}}, False),
        (GENERATE, {"sampling_params": {"max_tokens": -5}}, False),
        (GENERATE, {"sampling_params": {"max_tokens": 6, "min_tokens": 6}, "stream_options": USAGE}, False),
        (MESSAGES, {"max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 9}}, False),
        (MESSAGES, {"max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": "many"}}, False),
        (MESSAGES, {"max_tokens": 9, "thinking": {"type": "enabled", "budget_tokens": 8}}, True),
        (MESSAGES, {"max_tokens": 9, "thinking": {"type": "disabled"}}, True),
        (MESSAGES, {"max_tokens": 0}, False),
        (RESPONSES, {"store": "if you like"}, False),
        (RESPONSES, {"max_output_tokens": -1}, False),
    ],
)
def test_what_vllm_may_refuse_in_a_field_that_a_prefill_leg_replaces_is_not_split(api, fields, splits):
    prompts = {CHAT: CHATS, COMPLETIONS: {"prompt": "a"}, MESSAGES: CHATS, RESPONSES: CONVERSATION, GENERATE: IDS}
    assert read(api, {"model": "tiny"} | prompts[api] | fields, SCOPE).splits is splits
