"""The official Python client of OpenAI's API."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from tests.clients.conftest import HURRIED, HURRIED_PER_MINUTE, PAINTER
from tests.conftest import WAIT_S, await_that

pytestmark = [pytest.mark.clients, pytest.mark.ray]


@pytest.fixture
def client(start_client):
    return start_client("openai_calls.py")


def test_models_are_listed(client):
    assert client("models") == ["sim", "small"]


def test_turns_of_a_chat_stay_where_their_prefix_is(client, outcomes):
    chats = [client("chat_turns", name=name, turns=5) for name in ("Ada", "Ben", "Cleo")]
    for turns in chats:
        assert len({turn["instance"] for turn in turns}) == 1
        for before, after in pairwise(turns):
            assert after["cached_tokens"] > 0.9 * before["prompt_tokens"]
    assert outcomes() == {"ok": 15}


def test_a_stream_says_what_the_plain_answer_says(client):
    plain = client("chat", text="Tell me of foxes.", max_tokens=16)
    for fields in ({}, {"stream_options": {"include_usage": True}}, {"stream_options": {"include_usage": False}}):
        streamed = client("chat_stream", text="Tell me of foxes.", max_tokens=16, **fields)
        assert streamed["text"] == plain["text"]
        assert streamed["finish_reasons"] == ["length"]
        assert streamed["usages"] == fields.get("stream_options", {}).get("include_usage", False)


def test_an_answer_tells_who_gave_it_and_what_is_left(client):
    headers = client("chat", text="Who are you?")["headers"]
    assert headers["x-dualmap-instance"].startswith("sim-")
    assert headers["x-request-id"]
    assert 0 < int(headers["x-ratelimit-remaining-tokens"]) <= int(headers["x-ratelimit-limit-tokens"])


@pytest.mark.parametrize("ending", ["/v1", "/v1/"])
def test_the_address_may_end_in_a_slash(client, deployment, ending):
    answer = client("chat", text="Hello", base_url=f"http://127.0.0.1:{deployment.port}{ending}")
    assert answer["finish_reason"] == "length"


def test_completions_take_texts_and_token_ids(client):
    for prompt in ("one two", list(range(40, 90)), ["one", "two"]):
        answer = client("completion", prompt=prompt)
        assert "".join(answer["texts"]) != ""
        if not isinstance(prompt[0], str) or isinstance(prompt, str):
            assert answer["streamed"] == answer["texts"][0]


def test_several_choices_come_back(client):
    assert client("choices", n=3) == [0, 1, 2]


def test_many_questions_at_once_are_all_answered(client, outcomes):
    sessions = client("many_at_once", sessions=6, questions=8)
    assert [len(answers) for answers in sessions] == [8] * 6
    assert outcomes() == {"ok": 48}


def test_a_stream_that_is_closed_ends_at_the_instance(client, deployment, outcomes):
    assert client("leave_stream", text="Write a book.", after=3) == 3
    await_that(lambda: outcomes() == {"cancelled": 1}, "the gateway has noticed")
    await_that(lambda: nothing_runs(deployment), "the instance has stopped")


def test_a_client_that_gives_up_is_not_served_on(client, deployment, outcomes):
    assert client("give_up", text="Write a long book.", timeout=0.5)["class"] == "APITimeoutError"
    await_that(lambda: outcomes() == {"cancelled": 1}, "the gateway has noticed")
    await_that(lambda: nothing_runs(deployment), "the instance has stopped")


def nothing_runs(deployment) -> bool:
    return all(member["signals"]["metrics"]["running"] == 0 for member in deployment.members().values())


def test_a_used_up_key_is_waited_for_by_the_client_itself(client):
    error = client("use_up", key=HURRIED, most=10 * HURRIED_PER_MINUTE)
    assert (error["class"], error["status"]) == ("RateLimitError", 429)
    assert int(error["headers"]["retry-after"]) >= 1
    assert client("wait_for_key", key=HURRIED, most=10 * HURRIED_PER_MINUTE) >= 1


def test_a_model_whose_server_is_away_is_waited_for_by_the_client_itself(client, deployment, small, outcomes):
    small.stop()
    await_that(lambda: small.member(deployment)["state"] != "ready", "the server's end is noticed")
    error = client("chat_error", model="small")
    assert (error["class"], error["status"]) == ("InternalServerError", 503)
    assert int(error["headers"]["retry-after"]) >= 1
    turned_away = outcomes()["rejected_no_instance"]
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client, "chat", text="Are you back?", model="small", max_retries=20)
        await_that(lambda: outcomes()["rejected_no_instance"] > turned_away, "the client has been turned away")
        small.start()
        assert answer.result(timeout=WAIT_S)["retries"] >= 1


@pytest.mark.parametrize("key", ["dm-wrong", "sk-" + "0" * 48])
def test_a_wrong_key_is_refused(client, key):
    error = client("chat_error", options={"api_key": key})
    assert (error["class"], error["status"]) == ("AuthenticationError", 401)
    assert key not in error["message"]


def test_errors_are_those_that_the_client_knows(client):
    assert client("chat_error", model="no-such")["class"] == "NotFoundError"
    assert client("chat_error", messages=[])["class"] == "BadRequestError"
    assert client("chat_error", max_tokens=-1)["class"] == "BadRequestError"
    too_long = client("chat_error", text="word " * 400_000)
    assert too_long["class"] == "BadRequestError"
    assert "maximum context length" in too_long["message"]


def test_a_picture_of_3_mb_costs_a_key_what_the_server_counts(client, outcomes):
    turns = client("picture_turns", turns=3, api_key=PAINTER)
    assert len({turn["instance"] for turn in turns}) == 1
    assert turns[-1]["cached_tokens"] > 0
    assert all(0 < turn["prompt_tokens"] < 10_000 for turn in turns)
    assert outcomes() == {"ok": 3}


def test_embeddings_come_back_one_for_each_text(client, outcomes):
    answer = client("embeddings", texts=["one", "two", "three"])
    assert len(answer["lengths"]) == 3
    assert len(set(answer["lengths"])) == 1
    assert answer["first"] != [0.0] * 4
    assert answer["prompt_tokens"] > 0
    assert outcomes() == {"ok": 1}


def test_sound_is_transcribed_and_translated(client, outcomes):
    answer = client("audio")
    assert answer["instance"].startswith("sim-")
    assert answer["transcribed"]
    assert answer["translated"]
    assert outcomes() == {"ok": 2}
