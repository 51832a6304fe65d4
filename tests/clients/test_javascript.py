"""The official clients of OpenAI's and Anthropic's APIs for JavaScript, from npm."""

import shutil
from itertools import pairwise

import pytest

from tests.clients.client_process import CLIENTS, need
from tests.clients.conftest import TEAM
from tests.conftest import await_that

pytestmark = [pytest.mark.clients, pytest.mark.ray]


@pytest.fixture
def client(start_client):
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    need(CLIENTS / "node_modules" / "openai")
    return start_client("sdk_calls.mjs")


def test_models_are_listed(client):
    assert client("models") == ["sim", "small"]


@pytest.mark.parametrize("call", ["chat_turns", "responses_turns"])
def test_turns_stay_where_their_prefix_is(client, outcomes, call):
    chats = [client(call, name=f"{name} in {call}", turns=4) for name in ("Ada", "Ben")]
    for turns in chats:
        assert len({turn["instance"] for turn in turns}) == 1
        for before, after in pairwise(turns):
            assert after["cached_tokens"] > 0.9 * before["prompt_tokens"]
    assert outcomes() == {"ok": 8}


@pytest.mark.parametrize("call", ["chat", "messages"])
def test_a_stream_says_what_the_plain_answer_says(client, call):
    answer = client(call, text="Tell me of foxes.")
    assert answer["whole"]
    assert answer["streamed"] == answer["whole"]


def test_a_stream_that_is_left_ends_at_the_instance(client, outcomes):
    assert client("leave_stream", text="Write a book.", after=3) == 3
    await_that(lambda: outcomes() == {"cancelled": 1}, "the gateway has noticed")


def test_tokens_are_counted(client):
    assert client("count_tokens", text="How many?") > 0


def test_embeddings_and_sound_are_taken(client):
    lengths = client("embeddings", texts=["one", "two"])
    assert lengths[0] == lengths[1] > 0
    assert client("audio")


@pytest.mark.parametrize("call", ["chat_error", "message_error"])
def test_errors_are_those_that_the_client_knows(client, call):
    assert client(call, options={"apiKey": "dm-wrong"})["class"] == "AuthenticationError"
    assert client(call, fields={"model": "no-such"})["class"] == "NotFoundError"
    assert client(call, fields={"messages": []})["class"] == "BadRequestError"


def test_anthropics_client_may_send_the_key_as_a_bearer_token(client):
    assert client("messages", text="Let me in", options={"apiKey": None, "authToken": TEAM})["whole"]
