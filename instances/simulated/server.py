"""A simulated vLLM server: one table of paths, and HTTP around the engine."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from itertools import zip_longest
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from dualmap.instances.kv_events.format import EngineEvent
from dualmap.instances.simulated.answer import PlainAnswer, StreamedAnswer
from dualmap.instances.simulated.apis.adapters import list_models, load_adapter, unload_adapter
from dualmap.instances.simulated.apis.audio import transcribe
from dualmap.instances.simulated.apis.call import Call, Job, Reply, call_of
from dualmap.instances.simulated.apis.chat import read_chat
from dualmap.instances.simulated.apis.completions import read_completion
from dualmap.instances.simulated.apis.generate import generate
from dualmap.instances.simulated.apis.messages import MessageRefusedError, anthropic_error, count_tokens, create_message
from dualmap.instances.simulated.apis.pooling import classify, embed, pool, rerank, score
from dualmap.instances.simulated.apis.responses import check_cancel, create_response, find_response, get_response
from dualmap.instances.simulated.apis.tokens import detokenize, tokenize
from dualmap.instances.simulated.bootstrap import BootstrapServer
from dualmap.instances.simulated.data_parallel import PINNED, Engines
from dualmap.instances.simulated.engine_loop import EngineLoop
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.front import Front, unauthorized_response
from dualmap.instances.simulated.kv_transfer import HOLD_PATH, RELEASE_PATH, KvSide, LeaseCall
from dualmap.instances.simulated.lenient_body import read_body
from dualmap.instances.simulated.listener import BACKLOG, Listener
from dualmap.instances.simulated.media import MediaTokens
from dualmap.instances.simulated.metrics import Scrape
from dualmap.instances.simulated.mooncake import MooncakeSide
from dualmap.instances.simulated.response_store import ResponseStore
from dualmap.instances.simulated.served import Models, Served
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
from dualmap.scheduler.role import Role

SWEEP_S = 0.5
FLUSH_POLL_S, FLUSH_POLLS = 0.01, 100  # for the last bytes of aborted answers to leave
MAX_BODY_BYTES = 64 * 1024 * 1024  # vLLM has no limit; 16 million simulated tokens
RESPONSES, CANCEL = "/v1/responses/", "/cancel"

JOBS: dict[str, Callable[[Call, Served], Job]] = {  # what the engine works for, by POST
    "/v1/chat/completions": read_chat,
    "/v1/completions": read_completion,
    "/v1/responses": create_response,
    "/v1/messages": create_message,
    "/inference/v1/generate": generate,
    "/v1/embeddings": embed,
    "/pooling": pool,
    "/classify": classify,
    **dict.fromkeys(("/score", "/v1/score"), score),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), rerank),
}
FORM_JOBS: dict[str, Callable[[Call, Served], Job]] = dict.fromkeys(
    ("/v1/audio/transcriptions", "/v1/audio/translations"), transcribe
)
REPLIES: dict[str, Callable[[Call, Served], Reply]] = {  # by POST
    "/v1/messages/count_tokens": count_tokens,
    "/tokenize": tokenize,
    "/detokenize": detokenize,
    "/v1/load_lora_adapter": load_adapter,
    "/v1/unload_lora_adapter": unload_adapter,
}
GETS = ("/v1/models", "/health", "/ping", "/load", "/version", "/metrics")
POSTS = (*JOBS, *FORM_JOBS, *REPLIES, "/reset_prefix_cache", HOLD_PATH, RELEASE_PATH)
PATHS = dict.fromkeys(POSTS, "POST") | dict.fromkeys(GETS, "GET")


class SimServer:
    """max_queued: requests that may be in the engine, waiting or running; more are answered 503 (vLLM's
    --max-num-queued-reqs, vllm-project/vllm#49445). Each answer counts. adapters: LoRA adapters, each with a cache of
    its own; that their weights have to be loaded is not simulated. names: as clients call the model; empty: as it is
    called itself. keep_responses: as vLLM does with VLLM_ENABLE_RESPONSES_API_STORE=1. front: what stands before the
    APIs. side: of transfers of KV from and to other servers; its port is set here. bootstrap_port: where others ask
    for its engines, with Mooncake. data_parallel_size: engines, each
    with a KV cache of its own. publish: of each engine, who is told what changes in its cache; empty: nobody."""

    def __init__(
        self,
        profile: EngineProfile,
        model: str,
        max_queued: int | None,
        adapters: tuple[str, ...] = (),
        *,
        names: tuple[str, ...] = (),
        media: MediaTokens | None = None,
        keep_responses: bool = True,
        front: Front | None = None,
        side: KvSide | None = None,
        data_parallel_size: int = 1,
        bootstrap_port: int = 0,
        publish: Sequence[Callable[[list[EngineEvent]], None]] = (),
    ) -> None:
        self.clients: set[ClientConnection] = set()
        self.models = Models(model, adapters, names)
        store = ResponseStore() if keep_responses else None
        self._served = Served(profile, self.models, media or MediaTokens(), store)
        self._front = front or Front()
        self._loaded_at = 0.0
        side = side or KvSide()
        self._sides = [
            side,
            *(replace(side, engine_id=f"{side.engine_id}_dp{n}") for n in range(1, data_parallel_size)),
        ]
        base = self.models.base
        self._loops = [
            EngineLoop(profile, base, max_queued, side, rank, told)
            for rank, (side, told) in enumerate(zip_longest(self._sides, publish))
        ]
        self._engines = Engines(self._loops)
        self._scrape = Scrape([loop.metrics for loop in self._loops])
        self._limits = HttpLimits(max_body_bytes=MAX_BODY_BYTES, idle_timeout_s=5.0)  # uvicorn's keep-alive
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._bootstrap = BootstrapServer(self._sides)
        self._bootstrap_port = bootstrap_port

    async def start(self, host: str, port: int) -> int:
        """Listen without TLS; returns the port. Raises OSError if it is taken."""
        return await self.listen(Listener(host, port))

    async def listen(self, listener: Listener) -> int:
        """Returns the port, 0 of a Unix socket. Raises OSError if it is taken."""
        sock = listener.bind()
        port: int = 0 if listener.uds else sock.getsockname()[1]
        for side in self._sides:
            side.port = port
        if isinstance(self._sides[0], MooncakeSide) and self._sides[0].role is not Role.DECODE:
            await self._bootstrap.listen(self._sides[0].host, self._bootstrap_port)
        loop: Any = self._loop  # its stubs ask for a subclass of Protocol
        create = loop.create_unix_server if listener.uds else loop.create_server
        self._server = await create(
            lambda: ClientConnection(self, self._limits, time.monotonic), sock=sock, ssl=listener.tls, backlog=BACKLOG
        )
        self._loaded_at = time.monotonic() + self._front.load_s
        self._sweep()
        return port

    async def stop(self) -> None:
        """As vLLM on SIGTERM: running answers end with finish_reason "abort"."""
        if self._server is not None:
            self._server.close()
        self._bootstrap.close()
        for loop in self._loops:
            loop.abort_all()
        for client in self.clients:
            client.transport.close()
        for _ in range(FLUSH_POLLS):
            if not self.clients:
                return
            await asyncio.sleep(FLUSH_POLL_S)

    # HttpService.

    def check_head(self, request: HttpRequest) -> HttpError | None:
        if time.monotonic() < self._loaded_at:
            return unavailable("The model is being loaded.")
        if self._front.refuses(request):
            return None  # `begin` answers, in vLLM's own shape
        path = request.path = self._front.route(request.path)
        allowed = _allowed(path)
        if allowed is None:
            return unknown_path(path)
        return None if request.method == allowed else wrong_method(request.method, path, allowed)

    def begin(self, request: HttpRequest, client: ClientConnection) -> None:
        close = request.close
        if self._front.refuses(request):
            client.answer(unauthorized_response(close=close), close=close)
            return
        path = request.path
        try:
            if path in JOBS or path in FORM_JOBS:
                self._start(request, client)
                return
            reply = self._reply(request, path)
            response = ok_response(reply.body, reply.content_type, close=close)
        except MessageRefusedError as refusal:
            response = error_response(refusal.error, close=close, shape=anthropic_error)
        except RequestRefusedError as refusal:
            response = error_response(refusal.error, close=close)
        client.answer(response, close=close)

    def refused(self, error: HttpError) -> None:
        """vLLM does not count these either."""

    # The answers.

    def _start(self, request: HttpRequest, client: ClientConnection) -> None:
        """Raises RequestRefusedError."""
        call = call_of(request)
        if request.path in JOBS:
            call.check_json()
            job = JOBS[request.path](call, self._served)
        else:
            job = FORM_JOBS[request.path](call, self._served)
        generation, shape, plain_now = job
        engine = self._engines.of_rank(call.rank if request.path in PINNED else b"")
        engine.check(generation)
        close = request.close
        answer: PlainAnswer
        if generation.stream:
            answer = StreamedAnswer(generation, shape, client, engine.forget, close=close)
        else:
            answer = PlainAnswer(generation, shape, None if plain_now else client, engine.forget, close=close)
        if plain_now:
            client.answer(json_response(plain_now, close=close), close=close)
        else:
            client.answer_over_time(answer)
        engine.submit(answer)

    def _reply(self, request: HttpRequest, path: str) -> Reply:
        """Raises RequestRefusedError."""
        if path in REPLIES:
            call = call_of(request)
            call.check_json()
            return REPLIES[path](call, self._served)
        if path in (HOLD_PATH, RELEASE_PATH):
            return self._lease(path, request.body)
        match path:
            case "/metrics":
                return Reply(self._scrape.text(), CONTENT_TYPE_LATEST.encode())
            case "/health" | "/ping":
                return Reply(b"", b"text/plain")
            case "/reset_prefix_cache":
                done = [loop.engine.pool.reset() for loop in self._loops]
                return Reply(msgspec.json.encode({"success": all(done)}))
            case "/version":
                return Reply(b'{"version":"simulated"}')
            case "/load":
                return Reply(msgspec.json.encode({"server_load": sum(loop.in_flight for loop in self._loops)}))
            case "/v1/models":
                return list_models(call_of(request), self._served)
        response_id = path.removeprefix(RESPONSES)
        if path.endswith(CANCEL):
            return self._cancel(response_id.removesuffix(CANCEL))
        return get_response(Call(b"", item=response_id), self._served)

    def _lease(self, path: str, body: bytes) -> Reply:
        """Raises RequestRefusedError where there is no such lease."""
        call = read_body(LeaseCall, body)
        known = [loop.hold(call) if path == HOLD_PATH else loop.release(call) for loop in self._loops]
        if not any(known):
            what = f"Nothing is lent for request {call.request_id}."
            raise RequestRefusedError(HttpError(HTTPStatus.NOT_FOUND, "NotFoundError", what))
        return Reply(b"{}")

    def _cancel(self, response_id: str) -> Reply:
        """Raises RequestRefusedError."""
        stored = find_response(response_id, self._served)
        check_cancel(stored)
        if stored.engine_id is not None:
            for loop in self._loops:
                loop.forget(stored.engine_id)
        stored.response["status"] = "cancelled"
        return Reply(msgspec.json.encode(stored.response))

    def _sweep(self) -> None:
        self._loop.call_later(SWEEP_S, self._sweep)
        for loop in self._loops:
            loop.expire_leases()
        for client in list(self.clients):
            client.sweep(time.monotonic())


def _allowed(path: str) -> str | None:
    """The method that the path takes; None: there is no such path."""
    if path in PATHS:
        return PATHS[path]
    response_id = path.removeprefix(RESPONSES)
    if response_id == path or not response_id:
        return None
    owner = response_id.removesuffix(CANCEL)
    if "/" in owner:
        return None
    return "GET" if owner == response_id else "POST"
