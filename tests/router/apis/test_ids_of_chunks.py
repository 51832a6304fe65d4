"""Token ids taken off the chunks of a stream, however its bytes come."""

import random
import re

import pytest

from dualmap.router.apis.stream_rules import CHUNK_STREAM
from dualmap.router.apis.token_ids import TokenIds
from dualmap.router.requests.answer_events import AnswerEvents

DONE = "data: [DONE]\n\n"
TEXTS = (" w", "", 'a\\"b', "é", "[1]}]}")
MARKS = {"chat": b'"content":"', "completions": b'"text":"'}


def chunk(api: str, text: str, reason: str, ids: str) -> str:
    shown = f'"delta":{{"content":"{text}"}}' if api == "chat" else f'"text":"{text}"'
    choice = f'{{"index":0,{shown},"logprobs":null,"finish_reason":{reason},"token_ids":{ids}}}'
    return f'data: {{"id":"x","object":"o","created":1,"model":"m","choices":[{choice}]}}\n\n'


def first(prompt: str) -> str:
    choice = '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
    return (
        f'data: {{"id":"x","object":"o","created":1,"model":"m","choices":[{choice}],"prompt_token_ids":{prompt}}}\n\n'
    )


@pytest.mark.parametrize("api", MARKS)
@pytest.mark.parametrize("seed", range(40))
def test_the_client_gets_each_byte_as_if_no_ids_had_been_asked_for(seed, api):
    rng = random.Random(seed)
    texts = [rng.choice(TEXTS) for _ in range(rng.randrange(1, 12))]
    told = [f"[{k}]" if rng.random() < 0.7 else f"[{k},5]" for k in range(100, 100 + len(texts))]
    plain = (
        first("null") + "".join(chunk(api, text, "null", "null") for text in texts) + chunk(api, "", '"stop"', "null")
    )
    with_ids = first("[1,2,3]") + "".join(chunk(api, text, "null", ids) for text, ids in zip(texts, told, strict=True))
    data = (with_ids + chunk(api, "", '"stop"', "[2]") + DONE).encode()
    ids = TokenIds(MARKS[api], hides=True)
    events = AnswerEvents(CHUNK_STREAM, True, ids)
    shown, start = b"", 0
    while start < len(data):
        end = data.index(b"\n\n", start) + 2 if seed % 3 == 0 else start + rng.randrange(1, 200)
        shown += events.feed(data[start:end], end >= len(data))
        start = end
    assert shown == (plain + DONE).encode()
    assert re.findall(rb"\d+", ids.answer) == re.findall(rb"\d+", "".join([*told, "2"]).encode())
    assert (ids.prompt, ids.prompt_tokens) == (b"1,2,3", 3)
    seen = max((place + 1 for place, text in enumerate(texts) if text), default=0)
    assert ids.seen == re.findall(rb"\d+", "".join(told[:seen]).encode())


def test_an_event_for_its_ids_alone_is_not_shown():
    ids = TokenIds(MARKS["chat"], hides=True)
    events = AnswerEvents(CHUNK_STREAM, True, ids)
    alone = chunk("chat", "", "null", "[7]").replace('{"content":""}', "{}")
    token = chunk("chat", "a", "null", "[8]")
    shown = events.feed((first("[1]") + token + alone).encode(), False)
    assert shown == (first("null") + chunk("chat", "a", "null", "null")).encode()
    assert bytes(ids.answer) == b"8]7]"


def test_reasoning_is_known_for_what_it_is():
    ids = TokenIds(MARKS["chat"], hides=True)
    thought = chunk("chat", "a", "null", "[8]").replace("content", "reasoning")
    ids.take((first("[1]") + thought).encode(), False)
    assert ids.reasoning
    ids.take(chunk("chat", "a", "null", "[9]").encode(), False)
    assert not ids.reasoning
    assert ids.seen == [b"8", b"9"]


def test_tokens_of_half_a_character_are_made_again():
    ids = TokenIds(MARKS["chat"], hides=True)
    ids.take((first("[1]") + chunk("chat", "a", "null", "[7,8,9]")).encode(), False)
    assert not ids.one_by_one
    ids.drop_last(2)
    assert (ids.seen, ids.all_seen, ids.seen_tokens) == ([b"7"], True, 1)
