"""langchain-openai."""

from itertools import pairwise

import pytest

pytestmark = [pytest.mark.clients, pytest.mark.ray]
APIS = pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])


@pytest.fixture
def client(start_client):
    return start_client("langchain_calls.py")


@APIS
def test_turns_of_an_agent_stay_where_their_prefix_is(client, outcomes, responses):
    agents = [client("turns", name=f"{name} {responses}", count=4, responses=responses) for name in ("Ada", "Ben")]
    for turns in agents:
        assert len({turn["instance"] for turn in turns}) == 1
        for before, after in pairwise(turns):
            assert after["cached_tokens"] > 0.9 * before["input_tokens"]
    assert outcomes() == {"ok": 8}


@APIS
def test_a_stream_says_what_the_plain_answer_says(client, responses):
    answer = client("both", text="Tell me of foxes.", responses=responses)
    assert answer["whole"]
    assert answer["streamed"] == answer["whole"]


def test_a_batch_is_answered_in_order(client, outcomes):
    texts = [f"Number {n}" for n in range(12)]
    answers = client("batch", texts=texts)
    assert answers == [client("batch", texts=[text])[0] for text in texts]
    assert outcomes() == {"ok": 24}


def test_embeddings_come_back_one_for_each_text(client):
    lengths = client("embed", texts=["one", "two"])
    assert lengths[0] == lengths[1] > 0
