"""What the gateway reads of a body, and what it says of bad ones."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualmap.router.apis.peek import BYTES_PER_BLOCK_TOKEN, peek_chat, peek_completion
from dualmap.router.http.openai_errors import RequestRefusedError
from tests.router.conftest import CHAT

BLOCK_TOKENS = 16
BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_BLOCK_TOKEN

BAD_CHATS = {
    "empty": (b"", "not valid JSON", None),
    "not json": (b"hello", "not valid JSON", None),
    "cut off": (b'{"model":"tiny","messages":[{"role":"us', "not valid JSON", None),
    "not utf-8": (b'{"model":"\xff","messages":[{}]}', "not valid JSON", None),
    "two values": (json.dumps(CHAT).encode() * 2, "not valid JSON", None),
    "an array": (b"[]", "Expected `object`, got `array`", None),
    "a string": (b'"hi"', "Expected `object`, got `str`", None),
    "null": (b"null", "Expected `object`, got `null`", None),
    "no model": (b'{"messages":[{}]}', "`model` is missing", "model"),
    "empty model": (b'{"model":"","messages":[{}]}', "`model` is missing", "model"),
    "model is a number": (b'{"model":7,"messages":[{}]}', "got `int`", "model"),
    "no messages": (b'{"model":"tiny"}', "`messages` is missing", "messages"),
    "messages null": (b'{"model":"tiny","messages":null}', "`messages` is missing", "messages"),
    "messages empty": (b'{"model":"tiny","messages":[]}', "`messages` is empty", "messages"),
    "messages is a string": (b'{"model":"tiny","messages":"hi"}', "got `str`", "messages"),
    "stream is a string": (b'{"model":"tiny","messages":[{}],"stream":"yes"}', "got `str`", "stream"),
    "max_tokens is a string": (b'{"model":"tiny","messages":[{}],"max_tokens":"9"}', "got `str`", "max_tokens"),
    "priority is a list": (b'{"model":"tiny","messages":[{}],"priority":[]}', "got `array`", "priority"),
    "nested deeply": (
        b'{"model":"tiny","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "nested too deeply",
        None,
    ),
    "nested deeply elsewhere": (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "nested too deeply", None),
}
BAD_COMPLETIONS = {
    "no prompt": (b'{"model":"tiny"}', "`prompt` is missing", "prompt"),
    "prompt null": (b'{"model":"tiny","prompt":null}', "`prompt` is missing", "prompt"),
    "prompt empty": (b'{"model":"tiny","prompt":""}', "`prompt` is empty", "prompt"),
    "prompt an empty list": (b'{"model":"tiny","prompt":[ ]}', "`prompt` is empty", "prompt"),
    "prompt is a number": (b'{"model":"tiny","prompt":5}', "must be a string or a list", "prompt"),
    "prompt is an object": (b'{"model":"tiny","prompt":{}}', "must be a string or a list", "prompt"),
}
BAD_BODIES = [("/v1/chat/completions", *case) for case in BAD_CHATS.values()]
BAD_BODIES += [("/v1/completions", *case) for case in BAD_COMPLETIONS.values()]


@pytest.mark.parametrize(("path", "body", "message", "param"), BAD_BODIES, ids=[*BAD_CHATS, *BAD_COMPLETIONS])
async def test_a_bad_body_gets_400_that_names_what_is_wrong_and_the_connection_goes_on(
    fleet, path, body, message, param
):
    async with fleet() as f:
        client = await f.client()
        answer = await client.post(path, body, "x-request-id: r\r\n")
        assert answer.status == 400
        assert message in answer.error["message"]
        assert answer.error["param"] == param
        assert answer.headers["x-request-id"] == "r"
        assert not f.instances[0].received
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        f.check_books_are_empty()


@pytest.mark.parametrize("value", ["abc", "-5", "0", "nan", "inf", ""])
@pytest.mark.parametrize("header", ["x-dualmap-ttft-slo-ms", "x-llm-d-slo-ttft-ms", "x-llm-d-slo-tpot-ms"])
async def test_a_bad_objective_gets_400(fleet, header, value):
    async with fleet() as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT, f"{header}: {value}\r\n")
        assert answer.status == 400
        assert answer.error["param"] == header


@pytest.fixture
def overheard(monkeypatch):
    """Starts to collect the requests that a gateway's core is told of."""

    def listen(gateway):
        requests = []
        handle = gateway.scheduler.handle

        def overhear(event, now):
            if hasattr(event, "request"):
                requests.append(event.request)
            return handle(event, now)

        monkeypatch.setattr(gateway.scheduler, "handle", overhear)
        return requests

    return listen


async def test_the_core_is_told_what_the_client_asked_for(fleet, overheard):
    async with fleet() as f:
        requests = overheard(f.gateway)
        client = await f.client()
        body = CHAT | {"max_completion_tokens": 7, "max_tokens": 9, "priority": -3, "stream": None}
        await client.post("/v1/chat/completions", body, "x-dualmap-ttft-slo-ms: 1500\r\nx-dualmap-tpot-slo-ms: 40\r\n")
        (request,) = requests
        assert request.max_output_tokens == 7
        assert request.priority == -3
        assert (request.ttft_slo_s, request.tpot_slo_s) == (1.5, 0.04)
        assert not request.streams
        assert len(request.blocks) == 1


async def test_the_length_of_a_token_is_learned_from_usage(fleet, overheard):
    async def answer(conversation):
        await conversation.send_json({"usage": {"prompt_tokens": len(conversation.request.json["prompt"]) // 2}})

    async with fleet(answer) as f:
        requests = overheard(f.gateway)
        client = await f.client()
        for _ in range(10):
            await client.post("/v1/completions", {"model": "tiny", "prompt": "x" * 100_000})
        assert [requests[0].prompt_tokens, requests[0].block_tokens] == [25_000, 512]
        assert requests[-1].prompt_tokens == pytest.approx(50_000, rel=0.05)
        assert requests[-1].block_tokens == pytest.approx(1024, rel=0.05), "a block is as many bytes as ever"
        assert f.gateway.admission.ratio.prompt_tokens("tiny", 1000) == pytest.approx(500, rel=0.05)
        assert f.gateway.admission.ratio.prompt_tokens("other", 1000) == 250


def chat(messages, **fields):
    return peek_chat(json.dumps({"model": "tiny", "messages": messages, **fields}).encode(), BLOCK_TOKENS)


def completion(prompt, **fields):
    return peek_completion(json.dumps({"model": "tiny", "prompt": prompt, **fields}).encode(), BLOCK_TOKENS)


def message(role, text):
    return {"role": role, "content": text}


def test_the_blocks_of_a_chat_are_a_prefix_of_those_of_its_next_turn():
    messages = [message("system", "s" * 100), message("user", "u" * 300)]
    first = chat(messages).blocks
    second = chat([*messages, message("assistant", "a" * 200), message("user", "v" * 200)]).blocks
    assert len(second) > len(first) > 3
    assert second[: len(first)] == first


def test_a_short_chat_has_its_key_from_the_first_turn_on():
    messages = [message("user", "hi")]
    first = chat(messages).blocks
    assert len(first) == 1
    assert chat([*messages, message("assistant", "hello"), message("user", "bye")]).blocks[0] == first[0]


@pytest.mark.parametrize("text", ['"user"', 'a \\"user\\" b', '{"role":"user"}'])
def test_the_word_user_inside_a_text_is_not_taken_for_the_role(text):
    plain = chat([message("system", "x" * len(json.dumps(text))), message("user", "hi")])
    tricky = chat([message("system", text), message("user", "hi")])
    assert len(plain.blocks) == len(tricky.blocks)
    messages = [message("system", text), message("user", "hi")]
    assert chat([*messages, message("assistant", "z" * 500)]).blocks[: len(tricky.blocks)] == tricky.blocks


def test_the_role_may_stand_behind_the_content():
    first = [{"content": "c" * 500, "role": "user"}]
    assert chat([*first, message("assistant", "b")]).blocks == chat(first).blocks


@pytest.mark.parametrize("scope", [{"model": "other"}, {"cache_salt": "s"}, {"tools": [{"type": "function"}]}])
def test_nothing_is_shared_across_models_salts_and_tools(scope):
    messages = [message("user", "u" * 500)]
    assert not set(chat(messages).blocks) & set(chat(messages, **scope).blocks)


def test_a_longer_prompt_text_shares_the_blocks_of_a_shorter_one():
    short, long = completion("p" * 500), completion("p" * 500 + "q" * 500)
    assert long.blocks[: 500 // BLOCK_BYTES] == short.blocks


def test_the_length_of_a_prompt_of_token_ids_is_counted_not_estimated():
    assert completion(list(range(1000))).prompt_tokens == 1000
    assert completion("1, 2, 3").prompt_tokens == 0
    assert completion(["a, b", "c"]).prompt_tokens == 0
    ids = list(range(1000, 1500))
    shorter = completion(ids).blocks
    assert completion([*ids, 7, 8, 9]).blocks[: len(shorter)] == shorter


def check_that_peeks_fail_by_refusal_only(body):
    for peek in (peek_chat, peek_completion):
        with suppress(RequestRefusedError):
            peek(body, BLOCK_TOKENS)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(body):
    check_that_peeks_fail_by_refusal_only(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["model", "messages", "prompt", "stream", "max_tokens", "priority", "cache_salt", "tools"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_combination_of_types_is_read_or_refused(fields):
    check_that_peeks_fail_by_refusal_only(json.dumps(fields).encode())
