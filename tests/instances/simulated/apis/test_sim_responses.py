"""/v1/responses of the simulated server, as the official client sees it, and its store."""

from typing import Any

import openai
import pytest

from dualmap.instances.simulated.response_store import ResponseStore, StoredResponse
from tests.conftest import await_that

WORDS = "The quick brown fox jumps over the lazy dog. "


@pytest.fixture(scope="module")
def client(sim) -> Any:
    with openai.OpenAI(base_url=sim.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_response_is_streamed_as_it_is_answered_whole(client) -> None:
    asked = {"model": "sim", "input": "Tell me of foxes.", "instructions": "Be brief.", "max_output_tokens": 6}
    whole = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 6,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text == events[-1].response.output_text
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert whole.usage.output_tokens == 6


def test_a_response_that_ends_by_itself_is_completed(client) -> None:
    answer = client.responses.create(model="sim", input="How long?")
    assert (answer.status, answer.incomplete_details) == ("completed", None)


def test_a_response_can_be_looked_up_and_gone_on_with(client) -> None:
    first = client.responses.create(model="sim", input="A story. " + WORDS * 5, instructions="Be brief.")
    assert client.responses.retrieve(first.id) == first
    second = client.responses.create(model="sim", input="Go on.", previous_response_id=first.id)
    chat = [
        {"role": "user", "content": "A story. " + WORDS * 5},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Go on."},
    ]
    as_chat = client.chat.completions.create(model="sim", messages=chat, max_tokens=1)
    assert second.usage.input_tokens == as_chat.usage.prompt_tokens  # without the first one's instructions
    assert as_chat.usage.prompt_tokens_details.cached_tokens == (as_chat.usage.prompt_tokens - 1) // 16 * 16


@pytest.mark.parametrize("kept", ["store: false", "no store"])
def test_what_is_not_kept_is_not_found(start_sim, sim, kept: str) -> None:
    server = start_sim("--no-response-store") if kept == "no store" else sim
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        options = {"store": False} if kept == "store: false" else {}
        answer = client.responses.create(model="sim", input="hi", max_output_tokens=1, **options)
        not_found = f"Response with id '{answer.id}' not found."
        with pytest.raises(openai.NotFoundError, match=not_found):
            client.responses.retrieve(answer.id)
        with pytest.raises(openai.NotFoundError, match=not_found):
            client.responses.create(model="sim", input="and?", previous_response_id=answer.id)
        with pytest.raises(openai.NotFoundError, match=not_found):
            client.responses.cancel(answer.id)
        with pytest.raises(openai.BadRequestError, match="background"):
            client.responses.create(model="sim", input="hi", background=True, **options)


def test_a_response_in_the_background_is_made_without_a_client(client) -> None:
    queued = client.responses.create(model="sim", input="hi", max_output_tokens=3, background=True)
    assert (queued.status, queued.output) == ("queued", [])
    done = await_that(
        lambda: (seen := client.responses.retrieve(queued.id)).status != "queued" and seen, "the response is made"
    )
    assert (done.status, done.usage.output_tokens) == ("incomplete", 3)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(queued.id)


def test_a_response_in_the_background_can_be_cancelled(start_sim) -> None:
    sim = start_sim("--prefill-tokens-per-s", "0.001")
    with openai.OpenAI(base_url=sim.url, api_key="none", max_retries=0) as client:
        queued = client.responses.create(model="sim", input="hi", background=True)
        sim.await_metric("vllm:num_requests_running", 1)
        assert client.responses.cancel(queued.id).status == "cancelled"
        sim.await_metric("vllm:num_requests_running", 0)
        assert client.responses.retrieve(queued.id).status == "cancelled"


def test_a_response_whose_client_leaves_is_not_kept_and_not_made(start_sim) -> None:
    sim = start_sim("--prefill-tokens-per-s", "0.001")
    connection = sim.begin({"input": "hi"}, "/v1/responses")
    sim.await_metric("vllm:num_requests_running", 1)
    connection.close()
    sim.await_metric("vllm:num_requests_running", 0)


def test_the_least_recently_used_response_is_forgotten_first() -> None:
    store = ResponseStore(most_responses=2)
    for name in "ab":
        store.put(StoredResponse({"id": name}, (), size_bytes=1))
    assert store.get("a") is not None
    store.put(StoredResponse({"id": "c"}, (), size_bytes=1))
    assert [store.get(name) is not None for name in "abc"] == [True, False, True]


def test_the_store_is_bounded_in_bytes_and_counts_a_response_once() -> None:
    store = ResponseStore(most_bytes=10)
    for _ in range(5):
        store.put(StoredResponse({"id": "a"}, (), size_bytes=6))
    store.put(StoredResponse({"id": "b"}, (), size_bytes=4))
    assert [store.get(name) is not None for name in "ab"] == [True, True]
    store.put(StoredResponse({"id": "c"}, (), size_bytes=7))
    assert [store.get(name) is not None for name in "abc"] == [False, False, True]
