"""The official Python client of Anthropic's API."""

from itertools import pairwise

import pytest

from tests.clients.conftest import HURRIED, HURRIED_PER_MINUTE, TEAM
from tests.conftest import await_that

pytestmark = [pytest.mark.clients, pytest.mark.ray]


@pytest.fixture
def client(start_client):
    return start_client("anthropic_calls.py")


def test_a_stream_says_what_the_plain_answer_says(client, outcomes):
    plain = client("message", text="Tell me of foxes.")
    assert plain["text"]
    assert plain["stop_reason"] == "max_tokens"
    streamed = client("stream", text="Tell me of foxes.")
    assert streamed["streamed"] == streamed["text"] == plain["text"]
    assert streamed["output_tokens"] == plain["output_tokens"] == 16
    assert streamed["pieces"] > 1
    assert outcomes() == {"ok": 2}


def test_turns_of_an_agent_stay_where_their_prefix_is(client, outcomes):
    agents = [client("agent_turns", name=name, turns=6) for name in ("ada", "ben", "cleo")]
    for turns in agents:
        assert len({turn["instance"] for turn in turns}) == 1
        for before, after in pairwise(turns):
            assert after["cached_tokens"] > 0.9 * (before["input_tokens"] + before["cached_tokens"])
    assert outcomes() == {"ok": 18}


def test_tokens_are_counted_as_they_are_used(client):
    counts = client("count_tokens", text="How many?")
    assert counts["counted"] == counts["used"] > 0


def test_the_key_may_come_in_either_header(client):
    for options in ({"api_key": TEAM}, {"api_key": None, "auth_token": TEAM}):
        assert client("message", text="Let me in", **options)["text"]


@pytest.mark.parametrize("header", ["api_key", "auth_token"])
def test_a_wrong_key_is_refused_in_anthropics_words(client, header):
    options = {"api_key": None, header: "dm-wrong"}
    error = client("message_error", options=options)
    assert (error["class"], error["status"]) == ("AuthenticationError", 401)
    assert error["body"]["type"] == "error"
    assert error["body"]["error"]["type"] == "authentication_error"
    assert "dm-wrong" not in error["message"]


def test_errors_are_those_that_the_client_knows(client):
    missing = client("message_error", model="no-such")
    assert (missing["class"], missing["body"]["error"]["type"]) == ("NotFoundError", "not_found_error")
    broken = client("message_error", messages=[])  # in the server's own words
    assert (broken["class"], broken["body"]["type"]) == ("BadRequestError", "error")


def test_a_used_up_key_is_waited_for_by_the_client_itself(client):
    error = client("use_up", key=HURRIED, most=10 * HURRIED_PER_MINUTE)
    assert (error["class"], error["body"]["error"]["type"]) == ("RateLimitError", "rate_limit_error")
    assert int(error["retry_after"]) >= 1
    assert client("wait_for_key", key=HURRIED, most=10 * HURRIED_PER_MINUTE) >= 1


def test_a_stream_that_is_closed_ends_at_the_instance(client, outcomes):
    assert client("leave_stream", text="Write a book.", after=3) == 3
    await_that(lambda: outcomes() == {"cancelled": 1}, "the gateway has noticed")


def test_many_messages_at_once_are_all_answered(client, outcomes):
    assert client("many_at_once", count=40) == ["max_tokens"] * 40
    assert outcomes() == {"ok": 40}


def test_a_picture_of_3_mb_is_no_long_prompt(client, outcomes):
    answer = client("picture")
    assert answer["input_tokens"] + answer["cached_tokens"] < 10_000
    assert outcomes() == {"ok": 1}
