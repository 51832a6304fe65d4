"""Embeddings, scores, classes and transcriptions of the simulated server, as official clients see them."""

import math
from typing import Any

import openai
import pytest

AUDIO = "/v1/audio/transcriptions"
BOUNDARY = "limit"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def client(sim) -> Any:
    with openai.OpenAI(base_url=sim.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_equal_texts_have_equal_embeddings(client, encoding: dict[str, Any]) -> None:
    answer = client.embeddings.create(model="sim", input=["one", "two", "one"], dimensions=8, **encoding)
    first, second, third = (each.embedding for each in answer.data)
    assert first == third != second
    assert math.isclose(sum(value * value for value in first), 1, rel_tol=1e-5)
    assert len(first) == 8
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)


def test_embeddings_cost_the_engine_their_prompts(start_sim) -> None:
    sim = start_sim("--prefill-tokens-per-s", "0.001")
    connection = sim.begin({"input": ["a text", "another"]}, "/v1/embeddings")
    sim.await_metric("vllm:num_requests_running", 2)
    connection.close()
    sim.await_metric("vllm:num_requests_running", 0)


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents")], ids=str)
def test_pairs_have_scores(sim, path: str, names: tuple[str, str]) -> None:
    first, second = names
    _, answer = sim.post(path, {first: "one", second: ["two", "three"]})
    assert [(each["index"], each["object"], 0 <= each["score"] < 1) for each in answer["data"]] == [
        (0, "score", True),
        (1, "score", True),
    ]
    assert sim.post(path, {first: ["one", "two"], second: ["two", "three", "four"]})[0] == 400
    assert sim.post(path, {first: "one", second: []})[0] == 400


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_are_ranked(sim, path: str) -> None:
    documents = ["one", "two", "three"]
    _, answer = sim.post(path, {"query": "which?", "documents": documents, "top_n": 2})
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert [result["document"]["text"] for result in answer["results"]] == [
        documents[result["index"]] for result in answer["results"]
    ]
    assert len(scores) == 2


def test_texts_are_classified_and_pooled(sim) -> None:
    _, answer = sim.post("/classify", {"input": ["good", "bad"]})
    assert [(each["num_classes"], math.isclose(sum(each["probs"]), 1)) for each in answer["data"]] == [(2, True)] * 2
    _, answer = sim.post("/pooling", {"messages": [{"role": "user", "content": "hi"}]})
    assert len(answer["data"][0]["data"]) == 64


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {}),
        ("/v1/embeddings", {"input": ""}),
        ("/v1/embeddings", {"input": "a", "dimensions": 0}),
        ("/v1/embeddings", {"input": "a", "encoding_format": "x"}),
        ("/rerank", {"documents": ["a"]}),
        ("/rerank", {"query": "a", "documents": []}),
        ("/classify", {"input": 5}),
    ],
)
def test_malformed_bodies_are_refused(sim, path: str, body: dict[str, Any]) -> None:
    assert sim.post(path, body)[0] == 400
    assert sim.post(path, {"model": "other", "input": "a", "query": "a", "documents": ["a"]})[0] == 404


def test_a_sound_is_transcribed(client) -> None:
    told = {"model": "sim", "file": ("a.wav", b"\x00\x01\xff" * 1000)}
    answer = client.audio.transcriptions.create(**told)
    assert answer.text
    assert answer.text == client.audio.transcriptions.create(**told, response_format="text").strip()
    assert client.audio.transcriptions.create(**told, response_format="verbose_json").duration == 30
    assert client.audio.transcriptions.create(model="sim", file=("a.wav", b"other")).text != answer.text
    with pytest.raises(openai.NotFoundError):
        client.audio.transcriptions.create(**{**told, "model": "other"})


def field(name: str, value: str) -> str:
    return f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ("", FORM),
        (field("model", "sim") + f"--{BOUNDARY}--\r\n", FORM),
        (field("file", "x") + field("response_format", "srt") + f"--{BOUNDARY}--\r\n", FORM),
        (field("file", "x") + f"--{BOUNDARY}--\r\n", {"content-type": "multipart/form-data"}),
        ("{}", {"content-type": "application/json"}),
        ("{}", {}),
    ],
    ids=["empty", "no file", "unknown format", "no boundary", "JSON", "no content-type"],
)
def test_malformed_forms_are_refused(sim, body: str, headers: dict[str, str]) -> None:
    assert sim.post(AUDIO, body.encode(), headers)[0] == 400
