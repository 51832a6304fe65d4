"""A simulated vLLM server: the engine under an event loop, its answers over HTTP."""

import asyncio
import time
from dataclasses import replace

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from dualmap.instances.simulated.answer import PlainAnswer, StreamedAnswer
from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.engine_types import EngineRequest
from dualmap.instances.simulated.metrics import SimMetrics
from dualmap.instances.simulated.request import Generation, read_chat, read_completion, read_tokenize
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.local_answers import json_response, ok_response
from dualmap.router.http.openai_errors import (
    HttpError,
    RequestRefusedError,
    error_response,
    unavailable,
    unknown_path,
    wrong_method,
)

SWEEP_S = 0.5
MAX_LAG_S = 0.005  # a step that ends no later than this is taken to have ended on time, or timers would add up
FLUSH_POLL_S, FLUSH_POLLS = 0.01, 100  # for the last bytes of aborted answers to leave
MAX_BODY_BYTES = 64 * 1024 * 1024  # vLLM has no limit; 16 million simulated tokens
PATHS = {
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/tokenize": "POST",
    "/reset_prefix_cache": "POST",
    "/v1/models": "GET",
    "/health": "GET",
    "/version": "GET",
    "/metrics": "GET",
}
READERS = {"/v1/chat/completions": read_chat, "/v1/completions": read_completion}


class SimServer:
    """max_queued: requests that may be in the engine, waiting or running; more are answered 503 (vLLM's
    --max-num-queued-reqs, vllm-project/vllm#49445). Each prompt of a list counts. adapters: LoRA adapters, each with
    a cache of its own; that they have to be loaded is not simulated."""

    def __init__(
        self, profile: EngineProfile, model: str, max_queued: int | None, adapters: tuple[str, ...] = ()
    ) -> None:
        self.clients: set[ClientConnection] = set()
        self._engine = Engine(profile)
        self._metrics = SimMetrics(self._engine, model)
        self.models = (model, *adapters)
        self._max_queued = max_queued
        self._limits = HttpLimits(max_body_bytes=MAX_BODY_BYTES, idle_timeout_s=5.0)  # uvicorn's keep-alive
        self._loop = asyncio.get_running_loop()
        self._answers: dict[str, tuple[PlainAnswer, int]] = {}  # by engine request id: the answer, and which choice
        self._stepping = False  # from the start of a step until all its output has been handed on
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
        for answer in dict.fromkeys(answer for answer, _ in self._answers.values()):
            answer.abort()
        for client in self.clients:
            client.transport.close()
        for _ in range(FLUSH_POLLS):
            if not self.clients:
                return
            await asyncio.sleep(FLUSH_POLL_S)

    # HttpService.

    def check_head(self, request: HttpRequest) -> HttpError | None:
        path = request.path
        if path not in PATHS:
            return unknown_path(path)
        return None if request.method == PATHS[path] else wrong_method(request.method, path, PATHS[path])

    def begin(self, request: HttpRequest, client: ClientConnection) -> None:
        close = request.close
        try:
            match request.path:
                case "/v1/chat/completions" | "/v1/completions":
                    self._generate(request, client)
                    return
                case "/metrics":
                    response = ok_response(self._metrics.scrape(), CONTENT_TYPE_LATEST.encode(), close=close)
                case "/health":
                    response = ok_response(b"", b"text/plain", close=close)
                case "/tokenize":
                    response = json_response(self._tokenized(request.body), close=close)
                case "/reset_prefix_cache":
                    done = {"success": self._engine.pool.reset()}
                    response = json_response(msgspec.json.encode(done), close=close)
                case "/version":
                    response = json_response(b'{"version":"simulated"}', close=close)
                case _:
                    response = json_response(self._model_list(), close=close)
        except RequestRefusedError as refusal:
            response = error_response(refusal.error, close=close)
        client.answer(response, close=close)

    def refused(self, error: HttpError) -> None:
        """vLLM does not count these either."""

    # Generating.

    def _generate(self, request: HttpRequest, client: ClientConnection) -> None:
        """Raises RequestRefusedError."""
        profile = self._engine.profile
        read = READERS[request.path]
        generation = read(request.body, self.models, profile.block_size, profile.max_model_len)
        self._check_queue(generation)
        kind = StreamedAnswer if generation.stream else PlainAnswer
        answer = kind(generation, client, self._forget, close=request.close)
        client.answer_over_time(answer)
        requests = []
        for index, (engine_id, choice) in enumerate(zip(answer.engine_ids, generation.choices, strict=True)):
            self._answers[engine_id] = answer, index
            tokens = choice.prompt_tokens, choice.output_tokens
            requests.append(EngineRequest(engine_id, choice.blocks, *tokens, generation.priority))
        if profile.api_s:
            self._loop.call_later(profile.api_s, self._enter, requests)
        else:
            self._enter(requests)

    def _enter(self, requests: list[EngineRequest]) -> None:
        now = self._loop.time()
        for request in requests:
            if request.request_id in self._answers:  # its client has not left meanwhile
                self._engine.add(request, now)
        if not self._stepping:
            self._start_step(now)

    def _check_queue(self, generation: Generation) -> None:
        """Raises RequestRefusedError. vLLM sends no Retry-After."""
        in_flight = len(self._answers)
        if self._max_queued is not None and in_flight + len(generation.choices) > self._max_queued:
            message = f"Too many requests in flight: {in_flight}, of at most {self._max_queued}."
            raise RequestRefusedError(replace(unavailable(message), retry_after_s=None))

    def _forget(self, engine_id: str) -> None:
        """Abort the request, at once, if it has not ended."""
        if self._answers.pop(engine_id, None) is not None:
            self._engine.abort(engine_id)
            self._metrics.aborted()

    def _start_step(self, now: float) -> None:
        ends_at = self._engine.start_step(now)
        self._stepping = ends_at is not None
        if ends_at is not None:
            self._loop.call_at(ends_at, self._finish_step, ends_at)

    def _finish_step(self, ends_at: float) -> None:
        output = self._engine.finish_step(ends_at)
        answers = self._answers
        self._metrics.stepped(output)
        for first in output.first_tokens:
            answer, index = answers[first.request_id]
            answer.first_token(index, first.cached_tokens)
        for engine_id in output.decoding:
            answer, index = answers[engine_id]
            answer.token(index)
        for request in output.finished:
            answer, index = answers.pop(request.request_id)
            self._metrics.finished(request, answer.finish(index))
        now = self._loop.time()
        self._start_step(ends_at if now - ends_at < MAX_LAG_S else now)

    # The other answers.

    def _tokenized(self, body: bytes) -> bytes:
        """Raises RequestRefusedError."""
        tokens = read_tokenize(body, self.models)
        max_model_len = self._engine.profile.max_model_len
        shape = {"count": len(tokens), "max_model_len": max_model_len, "tokens": tokens, "token_strs": None}
        return msgspec.json.encode(shape)

    def _model_list(self) -> bytes:
        model, *adapters = self.models
        shared = {"object": "model", "created": int(time.time()), "owned_by": "dualmap"}
        length = {"max_model_len": self._engine.profile.max_model_len}
        cards = [{"id": model, **shared, "root": model, "parent": None, **length}]
        cards += [{"id": name, **shared, "root": name, "parent": model} for name in adapters]
        return msgspec.json.encode({"object": "list", "data": cards})

    def _sweep(self) -> None:
        self._loop.call_later(SWEEP_S, self._sweep)
        for client in list(self.clients):
            client.sweep(time.monotonic())
