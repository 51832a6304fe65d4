"""OpenAI's Responses API with the official Python client: programs, and coding agents."""

from itertools import pairwise

import pytest

pytestmark = [pytest.mark.clients, pytest.mark.ray]


@pytest.fixture
def client(start_client):
    return start_client("responses_calls.py")


def test_a_stream_says_what_the_plain_answer_says(client, outcomes):
    plain = client("answer", text="Tell me of foxes.")
    assert plain["text"]
    assert plain["input_tokens"] > 0
    streamed = client("stream", text="Tell me of foxes.")
    assert streamed["text"] == streamed["final"] == plain["text"]
    assert streamed["kinds"][0] == "response.created"
    assert streamed["kinds"][-1] in ("response.completed", "response.incomplete")
    assert outcomes() == {"ok": 2}


def test_turns_of_an_agent_stay_where_their_prefix_is(client, outcomes):
    agents = [client("agent_turns", name=name, turns=6) for name in ("ada", "ben", "cleo")]
    for turns in agents:
        assert len({turn["instance"] for turn in turns}) == 1
        for before, after in pairwise(turns):
            assert after["cached_tokens"] > 0.9 * before["input_tokens"]
    assert outcomes() == {"ok": 18}


def test_a_turn_that_names_the_response_before_it_finds_it(client, outcomes):
    agents = [client("follow_up_turns", name=name, turns=4) for name in ("ada", "ben", "cleo", "dan")]
    for turns in agents:
        assert len({turn["instance"] for turn in turns}) == 1
        for before, after in pairwise(turns):
            assert after["input_tokens"] > before["input_tokens"]
            assert after["cached_tokens"] > 0.9 * before["input_tokens"]
    assert outcomes() == {"ok": 16}


def test_a_response_is_found_where_it_is_stored(client, outcomes):
    for number in range(4):
        stored = client("stored", text=f"Keep {number}.")
        assert stored["same"]
        assert len(set(stored["instances"])) == 1
        assert stored["deleted"] == 405
    assert outcomes() == {"ok": 8, "client_error": 4}


def test_a_response_in_the_background_is_cancelled_where_it_is_made(client):
    for number in range(4):
        assert client("cancel", text=f"Write {number} books.")[1] == "cancelled"


def test_a_response_that_nobody_made_is_not_found(client):
    for error in client("missing", response_id="resp_never"):
        assert error["status"] == 404
        assert "resp_never" in error["message"]


def test_a_picture_of_3_mb_is_no_long_prompt(client, outcomes):
    assert client("picture")["input_tokens"] < 10_000
    assert outcomes() == {"ok": 1}
