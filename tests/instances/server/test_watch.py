"""How a server is found to be lost: by its health, its process, its sleep, its standstill. Times are shortened."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dualmap.instances.server import watch
from dualmap.instances.server.reasons import ANOTHER_PROCESS
from dualmap.instances.server.watch import ASLEEP, answers, look_at, watch_health, watch_metrics, watch_progress
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import MemberState
from tests.conftest import WAIT_S, await_that

TIMEOUTS = ("HEALTH_TIMEOUT_S", "SCRAPE_TIMEOUT_S", "PROBE_TIMEOUT_S")
SAMPLE = (
    "vllm:num_requests_running 0.0\nvllm:iteration_tokens_total_count {steps}\nprocess_start_time_seconds {start}\n"
)


class ScriptedServer:
    """statuses: by path; None hangs until the server is closed. metrics, models: the text of /metrics and /v1/models.
    bodies: of POSTs."""

    def __init__(self) -> None:
        self.statuses: dict[str, int | None] = {}
        self.metrics = SAMPLE.format(steps=1, start=5)
        self.models = '{"data": [{"id": "m"}]}'
        self.bodies: list[dict] = []
        self.asked: dict[str, int] = {}
        self.closing = threading.Event()
        owner = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked[self.path] = owner.asked.get(self.path, 0) + 1
                status = owner.statuses.get(self.path, 200)
                if status is None:
                    owner.closing.wait(WAIT_S)
                    return
                body = {"/metrics": owner.metrics, "/v1/models": owner.models}.get(self.path, "{}").encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                owner.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.endpoint = Endpoint("127.0.0.1", self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch):
    for name in ("HEALTH_INTERVAL_S", "SCRAPE_INTERVAL_S", "STILL_S"):
        monkeypatch.setattr(watch, name, 0.02)
    for name in TIMEOUTS:
        monkeypatch.setattr(watch, name, WAIT_S)
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def hangs(server, monkeypatch):
    """Lets a path of the server hang; only then are answers not waited for."""

    def hang(path: str) -> None:
        server.statuses[path] = None
        for name in TIMEOUTS:
            monkeypatch.setattr(watch, name, 0.05)

    return hang


def end_of(watching) -> str:
    async def limited() -> str:
        async with asyncio.timeout(WAIT_S):
            return await watching

    return asyncio.run(limited())


def test_a_server_that_makes_a_token_is_ready_with_its_models(server):
    look = end_of(look_at(server.endpoint))
    assert (look.state, look.reason, look.cards) == (MemberState.READY, "", ({"id": "m"},))
    assert server.bodies[0]["model"] == "m"


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/v1/models", 503, "503: it loads its model"),
        ("/v1/models", 401, "401: it wants a key (gateway.instance_key_file)"),
        ("/health", 503, "/health answers 503"),
        ("/v1/completions", 500, "makes no token: /v1/completions answers 500"),
    ],
)
def test_a_server_that_answers_but_cannot_be_used_is_starting(server, path: str, status: int, reason: str):
    server.statuses[path] = status
    assert end_of(look_at(server.endpoint)) == (MemberState.STARTING, reason, ())


@pytest.mark.parametrize("models", ["ok", "{}", '{"data": []}', '{"data": [{"id": "m"}, 3]}'])
def test_a_server_that_answers_everything_with_200_is_no_vllm_server(server, models: str):
    server.models = models
    reason = "answers, but is no vLLM server: /v1/models is no list of models"
    assert end_of(look_at(server.endpoint)) == (MemberState.STARTING, reason, ())


def test_a_server_that_does_not_answer_is_lost(server, hangs):
    hangs("/v1/models")
    assert end_of(look_at(server.endpoint)) == (MemberState.LOST, "no answer within 0.05 s", ())


def test_a_server_that_refuses_its_health_several_times_is_lost(server):
    server.statuses["/health"] = 503
    assert end_of(watch_health(server.endpoint)) == "/health answers 503"
    assert server.asked["/health"] == 3


def test_a_server_that_leaves_its_health_unanswered_several_times_is_lost(server, hangs):
    hangs("/health")
    assert end_of(watch_health(server.endpoint)) == "no answer within 0.05 s"
    await_that(lambda: server.asked.get("/health") == 3, "it was asked three times")


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (SAMPLE.format(steps=1, start=6), ANOTHER_PROCESS),
        (SAMPLE.format(steps=1, start=5) + 'vllm:engine_sleep_state{sleep_state="awake"} 0.0\n', ASLEEP),
    ],
)
def test_a_server_that_is_another_or_asleep_is_lost(server, then: str, reason: str):
    samples = []

    def note(metrics) -> None:
        samples.append(metrics)
        server.metrics = then

    assert end_of(watch_metrics(server.endpoint, note)) == reason
    assert len(samples) == 1


def test_metrics_that_cannot_be_had_are_no_loss(server):
    server.statuses["/metrics"] = 404
    noted = []

    async def some_time() -> None:
        watching = asyncio.create_task(watch_metrics(server.endpoint, noted.append))
        await asyncio.to_thread(await_that, lambda: server.asked.get("/metrics", 0) >= 3, "three scrapes")
        assert not watching.done()
        watching.cancel()

    end_of(some_time())
    assert noted == []


def test_an_engine_that_neither_steps_nor_answers_is_lost_whatever_its_health(server, hangs):
    hangs("/v1/completions")
    assert end_of(watch_progress(server.endpoint, "m", lambda: 7)).startswith("no token and no step of the engine")
    await_that(lambda: server.bodies, "it was asked")
    assert server.bodies[0]["model"] == "m"
    assert server.bodies[0]["max_tokens"] == 1


def watched_until(server, steps, enough) -> None:
    async def some_time() -> None:
        watching = asyncio.create_task(watch_progress(server.endpoint, "m", steps))
        await asyncio.to_thread(await_that, enough, "enough")
        assert not watching.done()
        watching.cancel()

    end_of(some_time())


def test_an_idle_engine_is_asked_for_a_token_and_goes_on(server):
    watched_until(server, lambda: 7, lambda: len(server.bodies) >= 3)


def test_an_engine_that_steps_is_not_asked(server):
    steps = iter(range(1000))
    count = []

    def step() -> int:
        count.append(next(steps))
        return count[-1]

    watched_until(server, step, lambda: len(count) > 10)
    assert server.bodies == []


def test_one_whose_steps_are_unknown_is_not_asked(server):
    count = []
    watched_until(server, lambda: count.append(1), lambda: len(count) > 10)
    assert server.bodies == []


@pytest.mark.parametrize(("status", "alive"), [(200, True), (400, True), (404, True), (503, True), (500, False)])
def test_a_refusal_is_a_sign_of_life_and_an_engine_error_is_not(server, status, alive: bool):
    server.statuses["/v1/completions"] = status
    assert end_of(answers(server.endpoint, "m")) is alive


def test_an_engine_that_does_not_answer_gives_no_sign_of_life(server, hangs):
    hangs("/v1/completions")
    assert not end_of(answers(server.endpoint, "m"))
