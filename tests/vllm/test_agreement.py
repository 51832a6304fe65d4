"""The simulated server answers as vLLM does: the same statuses, fields and events.

vLLM's answers may have more fields in chats and completions: the simulated ones are as long as they were.
"""

import http.client
import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import pytest

from tests.conftest import WAIT_S
from tests.instances.conftest import SimProcess
from tests.vllm.conftest import VllmServer
from tests.vllm.lenient_bodies import CHAT, COMPLETION, HI, MESSAGES, MODEL, RESPONSES

pytestmark = pytest.mark.vllm

GENERATE = "/inference/v1/generate"
COUNT = f"{MESSAGES}/count_tokens"
MAY_HAVE_FEWER_FIELDS = (CHAT, COMPLETION, GENERATE)
ID_FIELDS = ("token_ids", "prompt_token_ids")
USAGE = {"stream_options": {"include_usage": True}}
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
TOOL_TURNS = [
    *HI,
    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "5"}]},
]
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": HI, "max_tokens": 3, "n": 2}),
    "chat, streamed": (CHAT, {"messages": HI, "max_tokens": 3, "n": 2, "stream": True, **USAGE}),
    "chat, going on": (
        CHAT,
        {
            "messages": [*HI, {"role": "assistant", "content": "So"}],
            "max_tokens": 1,
            "add_generation_prompt": False,
            "continue_final_message": True,
        },
    ),
    "completion": (COMPLETION, {"prompt": ["one", "two"], "max_tokens": 3, "n": 2}),
    "completion, streamed": (COMPLETION, {"prompt": "one", "max_tokens": 3, "stream": True, **USAGE}),
    "chat with the ids of its tokens": (CHAT, {"messages": HI, "max_tokens": 3, "return_token_ids": True}),
    "chat with the ids of its tokens, streamed": (
        CHAT,
        {"messages": HI, "max_tokens": 3, "n": 2, "stream": True, "return_token_ids": True, **USAGE},
    ),
    "completion with the ids of its tokens": (
        COMPLETION,
        {"prompt": ["one", "two"], "max_tokens": 3, "return_token_ids": True},
    ),
    "completion with the ids of its tokens, streamed": (
        COMPLETION,
        {"prompt": ["one", "two"], "max_tokens": 3, "stream": True, "return_token_ids": True, **USAGE},
    ),
    "completion with an empty salt": (COMPLETION, {"prompt": "one", "cache_salt": ""}),
    "chat with a salt that is a path": (CHAT, {"messages": HI, "cache_salt": "a/b"}),
    "response with a salt that is too long": (RESPONSES, {"input": "hi", "cache_salt": "a" * 129}),
    "response": (RESPONSES, {"input": "hi", "instructions": "be brief", "max_output_tokens": 3}),
    "response, streamed": (RESPONSES, {"input": "hi", "max_output_tokens": 3, "stream": True}),
    "response, not stored": (RESPONSES, {"input": "hi", "max_output_tokens": 1, "store": False}),
    "response, in the background and not stored": (RESPONSES, {"input": "hi", "background": True, "store": False}),
    "response of another model": (RESPONSES, {"input": "hi", "model": "other"}),
    "message": (MESSAGES, {"messages": HI, "max_tokens": 3, "system": "be brief"}),
    "message, streamed": (MESSAGES, {"messages": HI, "max_tokens": 3, "stream": True}),
    "message with the result of a tool": (MESSAGES, {"messages": TOOL_TURNS, "max_tokens": 1}),
    "message of another model": (MESSAGES, {"messages": HI, "max_tokens": 3, "model": "other"}),
    "message, too long": (MESSAGES, {"messages": HI, "max_tokens": 10**6}),
    "count": (COUNT, {"messages": HI, "system": "be brief"}),
    "count of another model": (COUNT, {"messages": HI, "model": "other"}),
    "generate": (GENERATE, {"token_ids": [5, 6], "sampling_params": {"max_tokens": 3, "n": 2}}),
    "generate, streamed": (
        GENERATE,
        {"token_ids": [5, 6], "sampling_params": {"max_tokens": 3}, "stream": True, "return_token_ids": True, **USAGE},
    ),
    "generate text": (GENERATE, {"token_ids": [5], "sampling_params": {"max_tokens": 3}, "output_mode": "text"}),
    "generate from nothing": (GENERATE, {"token_ids": [], "sampling_params": {}}),
    "tokenize": ("/tokenize", {"prompt": "hi there", "return_token_strs": True}),
    "tokenize a chat": ("/tokenize", {"messages": HI}),
    "tokenize nothing": ("/tokenize", {}),
    "detokenize": ("/detokenize", {"tokens": [5, 6]}),
    "detokenize words": ("/detokenize", {"tokens": ["a"]}),
    "load the model as an adapter": (LOAD, {"lora_name": MODEL, "lora_path": "x"}),
    "load an adapter without a name": (LOAD, {"lora_name": "", "lora_path": "x"}),
    "unload an adapter that is not there": (UNLOAD, {"lora_name": "a"}),
}
ASKED_WITHOUT_BODY = (
    ("GET", "/v1/models"),
    ("GET", "/health"),
    ("GET", "/ping"),
    ("GET", "/load"),
    ("GET", f"{RESPONSES}/resp_none"),
    ("POST", f"{RESPONSES}/resp_none/cancel"),
    ("DELETE", f"{RESPONSES}/resp_none"),
    ("GET", RESPONSES),
    ("GET", f"{RESPONSES}/a/b"),
    ("OPTIONS", CHAT),
    ("GET", "/no/such/path"),
)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[tuple[str, Any]]:
        """Of a stream: the name ("" where it has none) and the data of each event."""
        found = []
        for event in self.body.decode().split("\n\n")[:-1]:
            lines = dict(line.split(": ", 1) for line in event.split("\n"))
            data = lines["data"]
            found.append((lines.get("event", ""), data if data == "[DONE]" else json.loads(data)))
        return found


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    content_type: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    fields = {**(headers or {}), **({"content-type": content_type} if content_type else {})}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request(method, path, body, fields)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def post(port: int, path: str, body: dict[str, Any]) -> Answer:
    return ask(port, "POST", path, json.dumps({"model": MODEL, **body}).encode(), "application/json")


def assert_like(simulated: Any, real: Any, where: str, *, may_be_fewer: bool) -> None:
    """The same fields and types, all the way down. null fits everything: it is what the other leaves out."""
    if simulated is None or real is None:
        return
    if isinstance(real, int | float) and not isinstance(real, bool):
        assert isinstance(simulated, int | float), where
        return
    assert type(simulated) is type(real), where
    if isinstance(real, dict):
        told = {key for key, value in simulated.items() if value is not None}
        assert told <= real.keys(), where
        assert may_be_fewer or real.keys() <= simulated.keys(), where
        for key in told:
            assert_like(simulated[key], real[key], f"{where}.{key}", may_be_fewer=may_be_fewer)
    if isinstance(real, list) and real and simulated:
        assert_like(simulated[0], real[0], f"{where}[0]", may_be_fewer=may_be_fewer)


def kind_of(event: tuple[str, Any]) -> str:
    """What an event is, where its name does not say it: its fields, and those of its first choice."""
    name, data = event
    if name or isinstance(data, str):
        return name or data
    choice = data["choices"][0] if data["choices"] else {}
    return f"{sorted(choice.get('delta', ()))} of {bool(choice)}"


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimProcess]:
    process = SimProcess("--model", MODEL, "--max-model-len", "8192", "--prefill-tokens-per-s", "1000000")
    yield process
    process.clean_up()


@pytest.mark.parametrize("name", ASKED)
def test_answers_have_the_same_form(name: str, simulated: SimProcess, everyday_server: VllmServer) -> None:
    path, body = ASKED[name]
    ours, real = post(simulated.port, path, body), post(everyday_server.port, path, body)
    assert ours.status == real.status, real.body
    may_be_fewer = path in MAY_HAVE_FEWER_FIELDS
    if not body.get("stream"):
        if real.headers.get("content-type") == "application/json":
            assert_like(ours.json, real.json, "", may_be_fewer=may_be_fewer)
        return
    ours_told, real_told = ours.events(), real.events()
    kinds = [[kind for kind, _ in groupby(map(kind_of, events))] for events in (ours_told, real_told)]
    assert kinds[0] == kinds[1]
    firsts = {kind_of(event): event for event in reversed(real_told)}
    for event in ours_told:
        assert_like(event[1], firsts[kind_of(event)][1], kind_of(event), may_be_fewer=may_be_fewer)


@pytest.mark.parametrize("more", [{"return_token_ids": True}, USAGE, {}], ids=["with ids", "with usage", "without"])
@pytest.mark.parametrize(
    "asked", [(CHAT, {"messages": HI}), (COMPLETION, {"prompt": [5, 6]})], ids=lambda each: each[0]
)
def test_streams_have_the_same_fields_in_the_same_order(
    asked: tuple[str, dict[str, Any]], more: dict[str, Any], simulated: SimProcess, everyday_server: VllmServer
) -> None:
    """Where ids stand in the bytes, and which fields are null where they are not asked for."""
    path, body = asked
    told = []
    for port in (simulated.port, everyday_server.port):
        asked_for = {**body, **more, "max_tokens": 16, "stream": True, "temperature": 0, "ignore_eos": True}
        chunks = [data for _, data in post(port, path, asked_for).events()[:-1]]
        assert all(chunk.pop("system_fingerprint", None) is None for chunk in chunks[:-1])
        chunks[-1].pop("system_fingerprint", None)
        first, *others = [
            (
                [list(chunk), *map(list, chunk["choices"])],
                [choice.get(name) is None for choice in chunk["choices"] for name in ID_FIELDS],
            )
            for chunk in chunks
        ]
        # A busy server tells several tokens in one chunk: chunks are compared by their kinds, not by their places.
        told.append((first, [kind for kind, _ in groupby(others)]))
    assert told[0] == told[1]


@pytest.mark.parametrize(("method", "path"), ASKED_WITHOUT_BODY)
def test_paths_and_methods_are_answered_alike(
    method: str, path: str, simulated: SimProcess, everyday_server: VllmServer
) -> None:
    ours, real = ask(simulated.port, method, path), ask(everyday_server.port, method, path)
    assert (ours.status, ours.headers.get("allow")) == (real.status, real.headers.get("allow"))
    if real.status == 404 and "error" in real.json:
        assert ours.json == real.json


@pytest.mark.parametrize("server", ["simulated", "real"])
def test_responses_are_kept_and_gone_on_with(server: str, simulated: SimProcess, everyday_server: VllmServer) -> None:
    port = simulated.port if server == "simulated" else everyday_server.port
    first = post(port, RESPONSES, {"input": "hi", "max_output_tokens": 2}).json
    assert ask(port, "GET", f"{RESPONSES}/{first['id']}").json == first
    cancelled = ask(port, "POST", f"{RESPONSES}/{first['id']}/cancel")
    assert (cancelled.status, cancelled.json["error"]["message"]) == (400, "Cannot cancel a synchronous response.")
    second = {"input": "and?", "max_output_tokens": 2, "previous_response_id": first["id"]}
    told = post(port, RESPONSES, second).json
    asked = [*HI, {"role": "assistant", "content": first["output"][0]["content"][0]["text"]}]
    asked.append({"role": "user", "content": "and?"})
    as_chat = post(port, CHAT, {"messages": asked, "max_tokens": 1}).json
    assert told["usage"]["input_tokens"] == as_chat["usage"]["prompt_tokens"]
    background = post(port, RESPONSES, {"input": "hi", "max_output_tokens": 2, "background": True}).json
    assert (background["status"], background["output"]) == ("queued", [])


def test_a_text_model_serves_no_embeddings(everyday_server: VllmServer) -> None:
    """Which the simulated server does, whatever its model."""
    assert post(everyday_server.port, "/v1/embeddings", {"input": "hi"}).status == 404
