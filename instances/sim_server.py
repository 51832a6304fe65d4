"""A simulated vLLM server: the engine under an event loop, its answers over HTTP."""

import asyncio
import json
import time
import uuid

from prometheus_client import CONTENT_TYPE_LATEST

from instances.engine import Engine, Sequence, SimRequest
from instances.engine_profile import EngineProfile
from instances.sim_answer import DONE, LAST_CHUNK, STREAM_HEAD, AnswerShape, chunked
from instances.sim_metrics import SimMetrics
from instances.sim_request import Generation, read_chat, read_completion
from router.client_connection import ClientConnection
from router.http_request import HttpRequest
from router.limits import HttpLimits
from router.local_answers import json_response, ok_response
from router.openai_errors import (
    HttpError,
    RequestRefusedError,
    error_response,
    unavailable,
    unknown_path,
    wrong_method,
)

SWEEP_S = 0.5
MAX_LAG_S = 0.005  # a step that ends no later than this is taken to have ended on time, or timers would add up
ABORT_FLUSH_S = 0.1  # for the last bytes of aborted streams to leave
PATHS = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/reset_prefix_cache": "POST",
    "/v1/models": "GET",
    "/health": "GET",
    "/version": "GET",
    "/metrics": "GET",
}
READERS = {"/v1/chat/completions": read_chat, "/v1/completions": read_completion}


class SimServer:
    """max_queued: requests that may wait in the engine; more are answered 503 (vLLM: --max-num-queued-reqs)."""

    def __init__(self, profile: EngineProfile, model: str, max_queued: int | None) -> None:
        self.clients: set[ClientConnection] = set()
        self.engine = Engine(profile)
        self.metrics = SimMetrics(self.engine, model)
        self.model = model
        self._max_queued = max_queued
        self._limits = HttpLimits(max_body_bytes=64 * 1024 * 1024, idle_timeout_s=5.0)  # uvicorn's keep-alive
        self._loop = asyncio.get_running_loop()
        self._answers: dict[str, SimAnswer] = {}  # by engine request id
        self._stepping = False
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port. Raises OSError if it is taken."""
        self._server = await self._loop.create_server(
            lambda: ClientConnection(self, self._limits, time.monotonic), host, port
        )
        self._sweep()
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """As vLLM on SIGTERM: running answers end with finish_reason "abort"."""
        if self._server is not None:
            self._server.close()
        for answer in set(self._answers.values()):
            answer.abort()
        await asyncio.sleep(ABORT_FLUSH_S)
        for client in list(self.clients):
            client.abort()

    # HttpService.

    def check_head(self, request: HttpRequest) -> HttpError | None:
        path = request.path
        if path not in PATHS:
            return unknown_path(path)
        return None if request.method == PATHS[path] else wrong_method(request.method, path, PATHS[path])

    def begin(self, request: HttpRequest, client: ClientConnection) -> None:
        path, close = request.path, request.close
        match path:
            case "/v1/models":
                client.answer(json_response(self._model_list(), close=close), close=close)
            case "/version":
                client.answer(json_response(b'{"version":"simulated"}', close=close), close=close)
            case "/metrics":
                body = self.metrics.scrape()
                client.answer(ok_response(body, CONTENT_TYPE_LATEST.encode(), close=close), close=close)
            case "/health":
                client.answer(ok_response(b"", b"text/plain", close=close), close=close)
            case "/reset_prefix_cache":
                done = json.dumps({"success": self.engine.pool.clear()}).encode()
                client.answer(json_response(done, close=close), close=close)
            case _:
                self._generate(request, client)

    def refused(self, error: HttpError) -> None:
        """vLLM does not count these either."""

    # The engine.

    def _generate(self, request: HttpRequest, client: ClientConnection) -> None:
        profile = self.engine.profile
        try:
            if self._max_queued is not None and len(self.engine.waiting) >= self._max_queued:
                raise RequestRefusedError(unavailable("The request queue is full."))
            read = READERS[request.path]
            generation = read(request.body, self.model, profile.block_size, profile.max_model_len)
        except RequestRefusedError as refusal:
            close = request.close
            client.answer(error_response(refusal.error, close=close), close=close)
            return
        answer = SimAnswer(self, client, request, generation)
        client.answering = answer
        for engine_id, choice in zip(answer.engine_ids, generation.choices, strict=True):
            self._answers[engine_id] = answer
            output_tokens = choice.output_tokens
            sim = SimRequest(engine_id, choice.blocks, choice.prompt_tokens, output_tokens, generation.priority)
            self.engine.add(sim, self._loop.time())
        if not self._stepping:
            self._start_step(self._loop.time())

    def forget(self, engine_id: str) -> None:
        """Abort the request in the engine, at once."""
        sequence = self.engine.abort(engine_id)
        if self._answers.pop(engine_id, None) is not None and sequence is not None:
            self.metrics.ended(sequence, "abort", self._loop.time())

    def _start_step(self, now: float) -> None:
        ends_at = self.engine.start_step(now)
        self._stepping = ends_at is not None
        if ends_at is not None:
            self._loop.call_at(ends_at, self._finish_step, ends_at)

    def _finish_step(self, ends_at: float) -> None:
        output = self.engine.finish_step(ends_at)
        written: dict[SimAnswer, None] = {}
        for sequence in output.produced:
            answer = self._answers[sequence.request.id]
            answer.add_token(sequence)
            written[answer] = None
        for sequence in output.finished:
            answer = self._answers.pop(sequence.request.id)
            self.metrics.ended(sequence, answer.finish_reason(sequence), ends_at)
        for answer in written:
            answer.flush()
        now = self._loop.time()
        self._start_step(ends_at if now - ends_at < MAX_LAG_S else now)

    def _sweep(self) -> None:
        self._loop.call_later(SWEEP_S, self._sweep)
        for client in list(self.clients):
            client.sweep(time.monotonic())

    def _model_list(self) -> bytes:
        card = {"id": self.model, "object": "model", "created": int(time.time()), "owned_by": "dualmap"}
        card |= {"root": self.model, "parent": None, "max_model_len": self.engine.profile.max_model_len}
        return json.dumps({"object": "list", "data": [card]}).encode()


class SimAnswer:
    """One request's answer as its tokens are made. engine_ids: one for each choice."""

    def __init__(
        self, server: SimServer, client: ClientConnection, request: HttpRequest, generation: Generation
    ) -> None:
        answer_id = f"{'chatcmpl' if generation.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.engine_ids = [f"{answer_id}-{index}" for index in range(len(generation.choices))]
        self._server = server
        self._client = client
        self._close = request.close
        self._generation = generation
        self._shape = AnswerShape(answer_id, server.model, generation)
        self._indices = {engine_id: index for index, engine_id in enumerate(self.engine_ids)}
        self._unfinished = len(self.engine_ids)
        self._cached_tokens = 0
        self._events: list[bytes] = []
        self._begun = False

    def add_token(self, sequence: Sequence) -> None:
        """The sequence got its next token."""
        index = self._indices[sequence.request.id]
        complete = sequence.produced >= sequence.request.output_tokens
        if complete:
            self._unfinished -= 1
        if sequence.produced == 1:
            self._cached_tokens += sequence.cached_tokens or 0
        if self._generation.stream:
            if sequence.produced == 1:
                self._events.append(self._shape.first_event(index))
            reason = b'"%b"' % self.finish_reason(sequence).encode() if complete else b"null"
            self._events.append(self._shape.token_event(index, sequence.produced - 1, reason))

    def finish_reason(self, sequence: Sequence) -> str:
        return "stop" if self._generation.choices[self._indices[sequence.request.id]].stops else "length"

    def flush(self) -> None:
        """Send what the step has brought, in one write."""
        if self._generation.stream:
            self._send_events()
        elif not self._unfinished:
            reasons = ["stop" if choice.stops else "length" for choice in self._generation.choices]
            self._answer_plain(reasons)

    def abort(self) -> None:
        """The server ends: so do all its answers."""
        for engine_id in self.engine_ids:
            self._server.forget(engine_id)
        self._unfinished = 0
        if self._generation.stream:
            self._events += [self._shape.abort_event(index) for index in range(len(self.engine_ids))]
            self._send_events()
        else:
            self._answer_plain(["abort"] * len(self.engine_ids))

    # Answering: what becomes of the client.

    def client_left(self) -> None:
        for engine_id in self.engine_ids:
            self._server.forget(engine_id)

    def client_paused(self) -> None:
        """vLLM goes on generating, too; what waits is bounded by the length of the answer."""

    def client_resumed(self) -> None:
        """Nothing was stopped."""

    def _send_events(self) -> None:
        head = b"" if self._begun else STREAM_HEAD % (b"connection: close\r\n" if self._close else b"")
        self._begun = True
        events, self._events = b"".join(self._events), []
        if self._unfinished:
            self._client.transport.write(head + chunked(events))
            return
        if self._generation.include_usage:
            events += self._shape.usage_event(self._cached_tokens)
        self._client.transport.write(head + chunked(events + DONE) + LAST_CHUNK)
        self._client.answered(close=self._close)

    def _answer_plain(self, finish_reasons: list[str]) -> None:
        body = self._shape.plain(self._cached_tokens, finish_reasons)
        self._client.answer(json_response(body, close=self._close), close=self._close)
