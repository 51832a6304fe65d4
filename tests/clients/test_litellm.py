"""LiteLLM as a library."""

from itertools import pairwise

import pytest

pytestmark = [pytest.mark.clients, pytest.mark.ray]
PROVIDERS = ("openai", "hosted_vllm", "anthropic")


@pytest.fixture
def client(start_client):
    return start_client("litellm_calls.py")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_turns_of_a_chat_stay_where_their_prefix_is(client, outcomes, provider):
    chats = [client("turns", provider=provider, name=f"{name} by {provider}", count=3) for name in ("Ada", "Ben")]
    for turns in chats:
        assert len({turn["instance"] for turn in turns}) == 1
        for before, after in pairwise(turns):
            assert after["cached_tokens"] > 0.9 * before["prompt_tokens"]
    assert outcomes() == {"ok": 6}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_stream_says_what_the_plain_answer_says(client, provider):
    answer = client("both", provider=provider, text="Tell me of foxes.")
    assert answer["whole"]
    assert answer["streamed"] == answer["whole"]


def test_a_response_follows_another(client):
    answer = client("response", text="Tell me of foxes.")
    assert answer["tokens"][1] > answer["tokens"][0] > 0


def test_embeddings_come_back_one_for_each_text(client):
    lengths = client("embedding", texts=["one", "two", "three"])
    assert len(lengths) == 3
    assert lengths[0] == lengths[1] == lengths[2] > 0


@pytest.mark.parametrize(
    ("fields", "raised"),
    [
        ({"api_key": "dm-wrong"}, "AuthenticationError"),
        ({"model": "openai/no-such"}, "NotFoundError"),
        ({"text": "word " * 400_000}, "ContextWindowExceededError"),
        ({"max_tokens": -1}, "BadRequestError"),
    ],
    ids=["key", "model", "length", "field"],
)
def test_errors_become_what_litellm_has_for_them(client, fields, raised):
    assert client("error", provider="openai", **fields)["class"] == raised


def test_its_own_router_goes_on_with_us_where_another_server_is_away(client):
    instances = client("routed", text="Who is there?")["instances"]
    assert len(instances) == 6
    assert all(instance.startswith("sim-") for instance in instances)
