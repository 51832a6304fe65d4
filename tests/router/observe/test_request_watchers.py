"""The request log and traces of a gateway with scripted instances."""

import asyncio
import gzip
import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from dualmap.router.requests.request_log import RequestLog
from dualmap.router.requests.request_traces import RequestTraces, otlp_traces
from tests.router.conftest import CHAT, STREAM, Conversation, answer_hello
from tests.router.requests.numbered_stream import Numbered, dies

SECRET = "sk-nobody-may-see-this"
PROMPT = "a prompt that nobody may see"
BODY = {**CHAT, "messages": [{"role": "user", "content": PROMPT}]}
SAMPLED = 1
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def stream_two(conversation: Conversation) -> None:
    await conversation.begin_stream()
    for token in "ab":
        await conversation.send_event(json.dumps({"choices": [{"delta": {"content": token}}]}))
    await conversation.send_event("[DONE]")
    await conversation.end_stream()


async def refuse(conversation: Conversation) -> None:
    await conversation.send_json({"error": {"message": "no"}}, "400 Bad Request")


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "dualmap.requests")
    return lambda: [record for record in caplog.records if record.name == "dualmap.requests"]


async def test_each_request_has_a_line_and_no_secret_in_it(fleet, lines):
    async with fleet(answer_hello) as f:
        f.gateway.driver.watchers = (RequestLog(time.monotonic),)
        client = await f.client()
        headers = f"authorization: Bearer {SECRET}\r\nx-request-id: r1\r\nx-dualmap-tenant: search\r\n"
        assert (await client.post("/v1/chat/completions", BODY, headers)).status == 200
        await f.until(lambda: lines())
        (line,) = lines()
    assert (line.request_id, line.api, line.outcome, line.status, line.tenant) == ("r1", "chat", "ok", 200, "search")
    assert (line.instance, line.reason, line.attempts, line.model) == ("i0", "only_one", 1, "tiny")
    assert (line.prompt_tokens, line.cached_tokens, line.output_tokens) == (10, 8, 2)
    assert 0 <= line.queue_s <= line.first_byte_s <= line.e2e_s
    told = str(line.__dict__)
    assert SECRET not in told
    assert PROMPT not in told


async def test_lines_tell_how_each_request_ended(fleet, lines):
    async with fleet(refuse) as f:
        f.gateway.driver.watchers = (RequestLog(time.monotonic),)
        client = await f.client()
        await client.post("/v1/chat/completions", CHAT, "x-dualmap-timeout-ms: soon\r\n")
        await client.post("/v1/chat/completions", CHAT)
        await f.until(lambda: len(lines()) == 2)
        f.apply()
        await client.post("/v1/chat/completions", CHAT)
        await f.until(lambda: len(lines()) == 3)
    found = [(line.outcome, line.status, hasattr(line, "instance")) for line in lines()]
    assert found == [("client_error", 400, False), ("client_error", 400, True), ("rejected_no_instance", 503, False)]


async def test_an_answer_that_went_on_elsewhere_says_so_in_its_line(fleet, lines):
    numbered = Numbered()
    numbered.fail_at = {0: (3, dies), 2: (3, dies)}
    cards = ({"id": "tiny", "max_model_len": 100},)
    async with fleet(numbered, numbered, about={"max_continuations": 2}, cards=cards) as f:
        f.gateway.driver.watchers = (RequestLog(time.monotonic),)
        client = await f.client()
        await client.post("/v1/chat/completions", STREAM)
        await client.post("/v1/chat/completions", {**STREAM, "logprobs": True})
        await f.until(lambda: len(lines()) == 2)
    whole, cut = lines()
    assert (whole.outcome, whole.continued, whole.attempts, whole.output_tokens) == ("ok", 1, 2, 12)
    assert whole.failed_on == [next(i for i in ("i0", "i1") if i != whole.instance)]
    assert 0 <= whole.queue_s <= whole.first_byte_s <= whole.e2e_s
    assert (cut.outcome, cut.not_continued) == ("failed_stream", "it has log probabilities")


class Traced:
    def __init__(self, sample: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.traces = RequestTraces(SimpleSpanProcessor(self.exporter), "gateway-0", sample, time.monotonic)

    def spans(self) -> dict[str, object]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


async def test_a_span_is_not_named_after_what_only_one_client_asks_for(fleet):
    traced = Traced()
    async with fleet(answer_hello) as f:
        f.gateway.driver.watchers = (traced.traces,)
        client = await f.client()
        for path in ("/v1/responses/resp_1", "/v1/responses/resp_2/input_items", "/v1/threads/t1", "/rerank"):
            await client.post(path, CHAT)
        await f.until(lambda: len(traced.exporter.get_finished_spans()) >= 12)
    names = {
        span.name: span.attributes["http.route"] for span in traced.spans().values() if span.kind is SpanKind.SERVER
    }
    routes = ("/v1/responses/{id}", "/v1/{other}", "/rerank")
    assert names == {f"POST {route}": route for route in routes}


async def test_a_stream_has_a_span_with_its_phases_below(fleet):
    traced = Traced()
    async with fleet(stream_two) as f:
        f.gateway.driver.watchers = (traced.traces,)
        client = await f.client()
        began = time.time_ns()
        await client.post("/v1/chat/completions", STREAM, "x-request-id: r1\r\n")
        await f.until(lambda: traced.spans())
    spans = traced.spans()
    assert spans.keys() == {"POST /v1/chat/completions", "queue", "prefill", "decode"}
    server = spans["POST /v1/chat/completions"]
    assert server.kind is SpanKind.SERVER
    for name, value in {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "tiny",
        "dualmap.instance": "i0",
        "dualmap.request_id": "r1",
        "dualmap.outcome": "ok",
    }.items():
        assert server.attributes[name] == value
    assert server.resource.attributes["service.name"] == "dualmap"
    queue, prefill, decode = (spans[name] for name in ("queue", "prefill", "decode"))
    assert all(phase.parent.span_id == server.context.span_id for phase in (queue, prefill, decode))
    assert server.start_time == queue.start_time <= queue.end_time == prefill.start_time
    assert prefill.end_time == decode.start_time <= decode.end_time == server.end_time
    assert abs(server.start_time - began) < 10e9
    assert (
        f.instances[0]
        .received[0]
        .headers["traceparent"]
        .startswith(f"00-{server.context.trace_id:032x}-{server.context.span_id:016x}-")
    )


@pytest.mark.parametrize(
    ("headers", "sample", "kept", "same_trace"),
    [
        ("", 1.0, True, False),
        ("", 0.0, False, False),
        (f"traceparent: 00-{TRACE}-{PARENT}-01\r\n", 0.0, True, True),
        (f"Traceparent: 00-{TRACE}-{PARENT}-00\r\ntracestate: v=1\r\n", 1.0, False, True),
        ("traceparent: 00-1-2-01\r\n", 1.0, True, False),
        (f"traceparent: 00-{'0' * 32}-{PARENT}-01\r\n", 1.0, True, False),
    ],
)
async def test_the_clients_trace_goes_on_as_it_says(fleet, headers, sample, kept, same_trace):
    traced = Traced(sample)
    async with fleet(answer_hello) as f:
        f.gateway.driver.watchers = (traced.traces,)
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT, headers)).status == 200
        await f.until(lambda: not f.gateway.driver.exchanges)
    version, trace, span, flags = f.instances[0].received[0].headers["traceparent"].split("-")
    assert version == "00"
    assert bool(int(flags, 16) & SAMPLED) is kept
    assert (trace == TRACE) is same_trace
    assert span != PARENT
    if "tracestate" in headers:
        assert f.instances[0].received[0].headers["tracestate"] == "v=1"
    assert bool(traced.spans()) is kept
    if kept and same_trace:
        assert f"{traced.spans()['POST /v1/chat/completions'].parent.span_id:016x}" == PARENT


class Collector(BaseHTTPRequestHandler):
    """received: spans, by name."""

    received: ClassVar[dict[str, dict]] = {}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in json.loads(body)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                self.received.update((span["name"], span) for span in scope["spans"])
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


async def test_spans_reach_a_collector(fleet):
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, args=(0.05,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}/v1/traces"
    try:
        traces = otlp_traces(endpoint, "gateway-0", 1.0, time.monotonic)
        async with fleet(stream_two) as f:
            f.gateway.driver.watchers = (traces,)
            client = await f.client()
            assert (await client.post("/v1/chat/completions", STREAM)).status == 200
            await f.until(lambda: not f.gateway.driver.exchanges)
        await asyncio.to_thread(traces.close)
    finally:
        collector.shutdown()
        collector.server_close()
    assert Collector.received.keys() == {"POST /v1/chat/completions", "queue", "prefill", "decode"}
    server = Collector.received["POST /v1/chat/completions"]
    assert Collector.received["decode"]["parentSpanId"] == server["spanId"]


async def test_what_fails_is_an_error_in_its_trace(fleet):
    traced = Traced()
    async with fleet(answer_hello) as f:
        f.gateway.driver.watchers = (traced.traces,)
        f.apply()
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 503
    server = traced.spans()["POST /v1/chat/completions"]
    assert server.status.status_code is StatusCode.ERROR
    assert server.attributes["dualmap.outcome"] == "rejected_no_instance"
    assert not traced.traces._spans
