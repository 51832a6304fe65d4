"""What a body can cost at most to read: of many tiny things few are looked at, and what stands for media is bounded."""

import json
import time
import tracemalloc

import pytest

from dualmap.router.apis.api import Api
from dualmap.router.apis.chat import CHAT
from dualmap.router.apis.completions import COMPLETIONS
from dualmap.router.apis.json_body import FREELY_READ_BYTES, MAX_CONTAINERS, MAX_MESSAGES, MAX_REREAD_VALUES
from dualmap.router.apis.media import MAX_STANDING_BYTES
from dualmap.router.apis.messages import MESSAGES
from dualmap.router.apis.responses import RESPONSES
from tests.router.apis.test_prompt_text import read, said

NAME = "data:video/"  # stands for 16 KiB
HI = [said("user", "hi")]


@pytest.mark.parametrize("api", [CHAT, MESSAGES])
def test_names_of_media_stand_for_a_bounded_size(api):
    one = read(api, {"messages": [said("user", [{"a": [NAME] * 5_000}])]})
    assert one.media == {"video": 5_000}
    assert one.hashed_bytes < MAX_STANDING_BYTES + 400_000
    tracemalloc.start()
    many = [said("user", [{"type": "video_url", "video_url": {"url": NAME}}] * 100)] * 90
    assert read(api, {"messages": many}).understood
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 32 << 20


def test_what_the_assistant_did_is_put_together_in_a_time_that_grows_with_its_length():
    def cpu_s(count: int) -> float:
        body = json.dumps({"input": [{"type": "function_call", "name": "f" * 50}] * count}).encode()
        spent_s = []
        for _ in range(3):
            began = time.thread_time()
            assert read(RESPONSES, body).understood
            spent_s.append(time.thread_time() - began)
        return min(spent_s)

    assert cpu_s(32_000) < 30 * cpu_s(4_000)  # 64 times as much if each were copied for each


DENSE: list[tuple[Api, bytes]] = [
    (CHAT, b'{"model":"m","messages":[{"role":"user","content":[%b]}]}' % b",".join([b"{}"] * (MAX_CONTAINERS + 1))),
    (CHAT, b'{"model":"m","messages":[%b]}' % b",".join([b'{"role":""}'] * (MAX_MESSAGES + 1))),
    (RESPONSES, b'{"model":"m","input":[%b]}' % b",".join([b"{}"] * (MAX_MESSAGES + 1))),
    (COMPLETIONS, b'{"model":"m","prompt":[%b]}' % b",".join([b'"a"'] * 100_000)),
    (CHAT, b'{"model":"m","messages":[{"role":"user","content":[%b]}]}' % b",".join([b"9" * 4299] * 500)),
    (CHAT, b'{"model":"m","x":[NaN%b],"messages":[{"role":"user","content":"a"}]}' % (b",1" * MAX_REREAD_VALUES)),
]


@pytest.mark.parametrize(("api", "body"), DENSE, ids=range(len(DENSE)))
def test_what_holds_more_values_than_any_prompt_is_not_read(api, body):
    assert not read(api, body).understood


def test_what_a_response_goes_on_from_is_known_however_much_it_holds():
    one = read(RESPONSES, {"input": [{}] * (MAX_MESSAGES + 1), "model": "m", "previous_response_id": "resp_1"})
    assert (one.understood, one.model, one.state) == (False, "m", "resp_1")


def test_large_bodies_of_words_and_of_token_ids_are_read():
    words = json.dumps({"messages": [said("user", "words, and [brackets] in {them}. " * 100_000)]}).encode()
    assert len(words) > FREELY_READ_BYTES
    assert read(CHAT, words).understood
    assert read(COMPLETIONS, {"prompt": [151_643] * 1_000_000}).prompt_tokens == 1_000_000


def test_more_parts_than_are_looked_at_are_one_and_the_same_prompt():
    body = {"messages": [said("user", [{"type": "text", "text": "a"}] * 6_000)] * 3}
    assert read(CHAT, body).blocks == read(CHAT, json.dumps(body, indent=1).encode()).blocks
    assert read(CHAT, body | {"messages": body["messages"][:2] + HI}).blocks != read(CHAT, body).blocks
