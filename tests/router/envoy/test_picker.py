"""What the endpoint picker answers a proxy, message by message."""

import asyncio
import json
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.envoy import ext_proc
from dualmap.router.gateway.gateway import Gateway
from dualmap.router.gateway.pool import Pool
from dualmap.router.http.limits import HttpLimits
from dualmap.router.observe.metrics import GatewayMetrics
from dualmap.router.requests.driver import RequestDriver
from dualmap.scheduler import InstanceCapacity, Scheduler, SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from tests.conftest import WAIT_S
from tests.router.certs import write_cert
from tests.router.proxy_stream import ProxyStream

CHAT = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi " * 2000}]}).encode()
PLAIN_USAGE = (
    b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}'
)
ENDPOINTS = {"a": "10.0.0.1:8000", "b": "10.0.0.2:8000", "c": "[fd00::3]:8000"}


class Picking:
    """A gateway on a real core that picks for proxies; its instances are only names."""

    def __init__(self, *instance_ids: str, limits: HttpLimits | None = None, max_running: int = 8, **config: Any):
        config = SchedulerConfig(**config)
        self.scheduler = Scheduler(config)
        self.gateway = Gateway(
            [Pool("", self.scheduler)],
            limits or HttpLimits(),
            GatewayMetrics(),
            block_tokens=512,
            max_continuations=2,
            continue_by_text=True,
        )
        self.gateway.serve_proxies()
        self._capacity = InstanceCapacity(max_running=max_running)
        self._epoch = 0
        self.apply(*instance_ids)

    def apply(self, *instance_ids: str, **models: str) -> None:
        """models: of instances that have told."""
        self._epoch += 1
        ready = (
            Member(
                i,
                1,
                Endpoint(ENDPOINTS[i].rpartition(":")[0].strip("[]"), 8000),
                state=MemberState.READY,
                capacity=self._capacity,
                model_cards=({"id": models[i]},) if i in models else (),
            )
            for i in instance_ids
        )
        self.gateway.apply_membership(Membership(self._epoch, tuple(ready)))

    @property
    def driver(self) -> RequestDriver:
        return self.gateway.driver

    def stream(self, **about: Any) -> ProxyStream:
        return ProxyStream(self.gateway.front.picker, **about)

    async def asked(self, body: bytes = CHAT, **about: Any) -> tuple[ProxyStream, list[str]]:
        """A stream in full-duplex mode whose request has gone on, and where to."""
        stream = self.stream(**about)
        stream.ask(body)
        endpoints = await stream.endpoints()
        for _ in range(0, len(body), ext_proc.PIECE_BYTES):
            await stream.response()
        return stream, endpoints

    def check_books_are_empty(self) -> None:
        assert not self.driver.exchanges
        assert not self.scheduler.attempts
        for view in self.scheduler.instances.values():
            assert view.running_count == view.waiting_count == view.booked_kv_tokens == 0


async def refused(stream: ProxyStream) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, error object and headers of the proxy's own answer."""
    response = (await stream.response()).immediate_response
    headers = {h.header.key: h.header.raw_value.decode() for h in response.headers.set_headers}
    error = json.loads(response.body)["error"]
    assert error["code"] == response.status.code
    return response.status.code, error, headers


@pytest.mark.parametrize(
    "pieces", [(CHAT,), (CHAT[:10], CHAT[10:]), (CHAT, b""), (CHAT[:-1] + b" " * 150_000 + b"}",)], ids=len
)
async def test_a_body_that_is_held_goes_on_as_it_came_in_pieces_that_the_proxy_takes(pieces):
    picking = Picking("a", "b")
    stream = picking.stream()
    stream.send_head("/v1/chat/completions")
    stream.send_body(*pieces)
    assert set(await stream.endpoints()) == {ENDPOINTS["a"], ENDPOINTS["b"]}
    body = b"".join(pieces)
    echoed, ends = b"", False
    while not ends:
        piece = (await stream.response()).request_body.response.body_mutation.streamed_response
        assert len(piece.body) < 64 * 1024
        echoed += piece.body
        ends = piece.end_of_stream
    assert echoed == body
    await stream.leave()
    picking.check_books_are_empty()


async def test_bodies_that_a_proxy_sends_are_kept_as_they_came():
    """What the gateway asks instances for by itself, it could not hide again."""
    picking = Picking("a")
    body = CHAT[:-1] + b', "stream": true, "temperature": 0}'
    stream, _ = await picking.asked(body)
    (driven,) = picking.driver.exchanges.values()
    prompt = driven.asked.prompt
    assert prompt.body == body
    assert (prompt.hides_usage, prompt.records_ids, prompt.may_replay, prompt.by_text) == (False,) * 4
    await stream.leave()


async def test_trailers_end_a_body_too():
    picking = Picking("a")
    stream = picking.stream()
    stream.send_head("/v1/chat/completions")
    stream.send_body(CHAT, ends=False)
    stream.send(ext_proc.pb.ProcessingRequest(request_trailers=ext_proc.pb.HttpTrailers()))
    assert await stream.endpoints() == [ENDPOINTS["a"]]
    piece = (await stream.response()).request_body.response.body_mutation.streamed_response
    assert (piece.body, piece.end_of_stream) == (CHAT, False)
    assert (await stream.response()).WhichOneof("response") == "request_trailers"
    await stream.leave()


async def test_a_buffered_body_is_asked_for_and_answered_with_where_it_goes():
    picking = Picking("a")
    stream = picking.stream(mode=ext_proc.Mode.BUFFERED)
    stream.send_head("/v1/chat/completions")
    assert MessageToDict(await stream.response()) == {"requestHeaders": {}}
    stream.send_body(CHAT)
    assert await stream.endpoints() == [ENDPOINTS["a"]]
    assert picking.scheduler.attempts.popitem()[1].request.blocks
    await stream.leave()


async def test_all_endpoints_that_a_proxy_may_try_serve_the_model():
    picking = Picking("a")
    picking.apply("a", "b", "c", a="tiny", b="other", c="tiny")
    for n in range(8):
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": f"{n} hi " * 2000}]}).encode()
        stream, endpoints = await picking.asked(body)
        assert set(endpoints) == {ENDPOINTS["a"], ENDPOINTS["c"]}
        await stream.leave()
    unknown = picking.stream()
    unknown.ask(json.dumps({"model": "big", "messages": []}).encode())
    assert (await unknown.response()).immediate_response.status.code == 404


async def test_without_bodies_requests_are_placed_by_load():
    picking = Picking("a")
    stream = picking.stream(mode=ext_proc.Mode.NONE)
    stream.send_head("/v1/chat/completions")
    assert await stream.endpoints() == [ENDPOINTS["a"]]
    await stream.leave()
    stream = picking.stream()
    stream.send_head("/v1/models", "GET", end_of_stream=True)
    assert await stream.endpoints() == [ENDPOINTS["a"]]
    await stream.leave()
    picking.check_books_are_empty()


async def test_the_warm_candidate_comes_first_and_the_other_one_next():
    picking = Picking("a", "b", "c")
    first, (warm, *_) = await picking.asked()
    first.send_answer_head()
    first.send_answer(PLAIN_USAGE)
    await first.until_ended()
    for _ in range(3):
        stream, (chosen, other, *_) = await picking.asked()
        (attempt,) = picking.scheduler.attempts.values()
        assert chosen == warm == ENDPOINTS[attempt.instance_id]
        assert {chosen, other} == {ENDPOINTS[i] for i in attempt.candidates}
        await stream.leave()
    picking.check_books_are_empty()


@pytest.mark.parametrize("allowed", ["a", "b", "c"])
async def test_only_endpoints_of_the_hint_are_picked(allowed):
    picking = Picking("a", "b", "c")
    _, endpoints = await picking.asked(hint=[ENDPOINTS[allowed], "10.9.9.9:1"])
    assert endpoints == [ENDPOINTS[allowed]]


@pytest.mark.parametrize("event_stream", [False, True])
async def test_what_goes_on_from_an_answer_is_picked_for_where_that_is_kept(event_stream):
    picking = Picking("a", "b", "c")
    made = {}
    for n in range(6):
        stream = picking.stream()
        stream.ask(b'{"model":"tiny","input":"question %d"}' % n, "/v1/responses")
        chosen, *_ = await stream.endpoints()
        await stream.response()
        if event_stream:
            stream.send_answer_head(content_type="text/event-stream")
            stream.send_answer(b'data: {"response":{"id":', b'"resp_%d"},"type":"response.created"}\n\n' % n)
        else:
            stream.send_answer_head()
            stream.send_answer(b'{"id":"resp_%d","object":"response"}' % n)
        await stream.until_ended()
        made[f"resp_{n}"] = chosen
    for state_id, endpoint in made.items():
        stream = picking.stream()
        stream.ask(b'{"model":"tiny","input":"go on","previous_response_id":"%b"}' % state_id.encode(), "/v1/responses")
        assert await stream.endpoints() == [endpoint]
        await stream.leave()
        stream = picking.stream(mode=ext_proc.Mode.NONE)
        stream.send_head(f"/v1/responses/{state_id}", "GET", end_of_stream=True)
        assert await stream.endpoints() == [endpoint]
        await stream.leave()
    picking.check_books_are_empty()


async def test_a_request_that_is_shed_gets_429_with_a_retry_after():
    picking = Picking("a", max_running=1, max_in_flight=1)
    running, _ = await picking.asked()
    stream = picking.stream()
    stream.ask(CHAT)
    status, _, headers = await refused(stream)
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    await running.leave()
    picking.check_books_are_empty()


async def one_runs_and_one_waits() -> tuple[Picking, ProxyStream, ProxyStream, asyncio.Future[list[str]]]:
    """On an instance with room for one: the stream that runs, the one that is held, and what it will be told."""
    picking = Picking("a", max_running=1)
    running, _ = await picking.asked()
    held = picking.stream()
    held.ask(CHAT)
    waiting = asyncio.ensure_future(held.endpoints())
    await until(lambda: picking.scheduler.instances["a"].waiting_count == 1)
    return picking, running, held, waiting


async def test_a_request_is_held_until_its_instance_has_room():
    picking, running, held, waiting = await one_runs_and_one_waits()
    assert not waiting.done()
    running.send_answer_head()
    running.send_answer(PLAIN_USAGE)
    await running.until_ended()
    assert await waiting == [ENDPOINTS["a"]]
    await held.leave()
    picking.check_books_are_empty()


async def test_in_immediate_mode_nothing_is_held():
    picking = Picking("a", max_running=1, gateway_queue=False)
    streams = [(await picking.asked())[0] for _ in range(3)]
    assert picking.scheduler.instances["a"].running_count == 3
    for stream in streams:
        await stream.leave()


async def test_what_is_held_for_an_instance_that_is_lost_goes_elsewhere():
    picking, running, held, waiting = await one_runs_and_one_waits()
    picking.apply("b")
    await running.leave()
    assert await waiting == [ENDPOINTS["b"]]
    await held.leave()
    picking.check_books_are_empty()


async def test_a_proxy_that_leaves_while_its_request_is_held_frees_its_place():
    picking, running, _, waiting = await one_runs_and_one_waits()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert picking.scheduler.instances["a"].waiting_count == 0
    await running.leave()
    picking.check_books_are_empty()


async def test_the_answer_is_followed_to_its_end():
    picking = Picking("a")
    stream, _ = await picking.asked()
    (attempt,) = picking.scheduler.attempts.values()
    stream.send_answer_head(content_type="text/event-stream")
    headers = (await stream.response()).response_headers.response.header_mutation.set_headers
    assert [(h.header.key, h.header.raw_value) for h in headers] == [("x-dualmap-instance", b"a")]
    assert not attempt.started
    stream.send_answer(b'data: {"choices":[1]}\n\ndata: {"choices":[2]}\n\n', ends=False)
    piece = (await stream.response()).response_body.response.body_mutation.streamed_response
    assert piece.body.startswith(b"data: ")
    assert attempt.started
    stream.send_answer(b"data: " + PLAIN_USAGE + b"\n\n", b"data: [DONE]\n\n")
    await stream.until_ended()
    metrics = picking.gateway.metrics
    assert (metrics.prompt_tokens, metrics.cached_prompt_tokens, metrics.output_tokens) == (7, 4, 3)
    assert metrics.outcomes["ok"] == 1
    picking.check_books_are_empty()


async def test_an_answer_by_another_instance_than_the_chosen_one_is_booked_there():
    picking = Picking("a", "b")
    stream, (chosen, other) = await picking.asked()
    stream.send_answer_head(served=other)
    headers = (await stream.response()).response_headers.response.header_mutation.set_headers
    instance_id = next(i for i, endpoint in ENDPOINTS.items() if endpoint == other)
    assert headers[0].header.raw_value.decode() == instance_id
    (attempt,) = picking.scheduler.attempts.values()
    assert (attempt.instance_id, attempt.reason) == (instance_id, "redirected")
    _, (next_one, *_) = await picking.asked()
    assert next_one == other != chosen  # the one that could not be reached is left alone for a while
    stream.send_answer(PLAIN_USAGE)
    await stream.until_ended()
    assert picking.gateway.metrics.outcomes["ok"] == 1


async def test_a_proxy_that_reached_no_instance_leaves_nothing_behind():
    picking = Picking("a")
    stream, _ = await picking.asked()
    stream.send_answer_head(503)
    stream.send_answer(b"no healthy upstream")
    await stream.until_ended()
    assert picking.gateway.metrics.failures["connect"] == 1
    picking.check_books_are_empty()


async def test_an_instance_that_is_lost_under_a_running_request_takes_it_off_the_books():
    picking = Picking("a", max_attempts=1)
    stream, _ = await picking.asked()
    picking.apply("b")
    picking.check_books_are_empty()
    stream.send_answer_head(502)
    stream.send_answer(b"")
    await stream.until_ended()
    picking.check_books_are_empty()


async def test_a_picker_that_stops_refuses_new_requests():
    picking = Picking("a")
    picking.gateway.admission.stopping = True
    stream = picking.stream()
    stream.ask(CHAT)
    assert (await refused(stream))[0] == 503


async def test_the_picker_serves_grpc_over_tls(tmp_path):
    """With the certificate of the gateway's own port."""
    authority = trustme.CA()
    tls = write_cert(tmp_path, authority)
    gateway = Gateway(
        [Pool("", Scheduler(SchedulerConfig()))], HttpLimits(), GatewayMetrics(), block_tokens=512, tls=tls
    )
    gateway.serve_proxies()
    await gateway.start("127.0.0.1", 0)
    try:
        credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        async with grpc.aio.secure_channel(f"127.0.0.1:{gateway.port}", credentials) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service, status in (("liveness", "SERVING"), ("readiness", "NOT_SERVING")):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S)
                assert health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == status
    finally:
        await gateway.stop()


@pytest.mark.parametrize(("mode", "held"), [("queued", True), ("immediate", False)])
def test_the_mode_says_whether_requests_wait_here(mode, held):
    config = load_config(None, {"simulate": {"count": 1}, "gateway": {"picker": {"mode": mode}}})
    assert config.all_pools()[""].scheduler.gateway_queue is held


def test_instances_have_ip_addresses_that_a_proxy_can_be_told():
    values = {"gateway": {"picker": {}}, "instances": ["http://10.0.0.1:8000", "http://vllm-0.vllm:8000"]}
    with pytest.raises(ConfigFileError, match=r"by IP address, not by name: vllm-0\.vllm"):
        load_config(None, values)


async def until(condition) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)
