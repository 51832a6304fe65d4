"""The engine under an event loop: requests in, their tokens handed to the answers."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus

from dualmap.instances.kv_events.format import EngineEvent
from dualmap.instances.simulated.answer import PlainAnswer
from dualmap.instances.simulated.block_content import BlockContent
from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.engine_types import EngineRequest, FinishedRequest
from dualmap.instances.simulated.generation import Choice, Generation
from dualmap.instances.simulated.kv_transfer import KvSide, LeaseCall
from dualmap.instances.simulated.metrics import SimMetrics
from dualmap.instances.simulated.remote_reads import RemoteReads
from dualmap.router.http.openai_errors import HttpError, RequestRefusedError, unavailable

# vLLM's where it cannot read a prompt's KV (kv_load_failure_policy "fail", its default).
LOAD_FAILED = HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalServerError", "Internal server error")
MAX_LAG_S = 0.005  # a step that ends no later than this is taken to have ended on time, or timers would add up


class EngineLoop:
    """max_queued: requests that may be in the engine, waiting or running. Each answer counts. side: of the transfers
    of KV from and to other servers. rank: among the server's engines. publish: is told what each step has changed in
    the cache; None: nobody is."""

    def __init__(
        self,
        profile: EngineProfile,
        model: str,
        max_queued: int | None,
        side: KvSide,
        rank: int = 0,
        publish: Callable[[list[EngineEvent]], None] | None = None,
    ) -> None:
        self.engine = Engine(profile, kv_events=publish is not None)
        self._model = model
        self._publish = publish
        self.engine.leases.lease_s = side.lease_s
        self._side = side
        self._reads = RemoteReads(self.engine, self._read, self._load_failed, side.lease_s)
        self.metrics = SimMetrics(self.engine, model, rank)
        self._max_queued = max_queued
        self._loop = asyncio.get_running_loop()
        self._answers: dict[str, tuple[PlainAnswer, int]] = {}  # by engine request id: the answer, and which choice
        self._lent: dict[str, str] = {}  # requests that have lent their blocks, by what the reader calls the lease
        self._siblings: dict[str, list[EngineRequest]] = {}  # of a choice whose prompt is being computed
        self._stepping = False  # from the start of a step until all its output has been handed on

    @property
    def in_flight(self) -> int:
        return len(self._answers)

    def check(self, generation: Generation) -> None:
        """Raises RequestRefusedError. vLLM sends no Retry-After."""
        source = self._side.source(generation.kv_transfer_params)
        if self._max_queued is not None and self.in_flight + len(generation.choices) > self._max_queued:
            if source is not None:
                self._reads.refuse(source)
            message = f"Too many requests in flight: {self.in_flight}, of at most {self._max_queued}."
            raise RequestRefusedError(replace(unavailable(message), retry_after_s=None))

    def submit(self, answer: PlainAnswer) -> None:
        """Answers to the same prompt begin when the first of them has its first token: its blocks are there then. Of
        several answers, the first one's blocks are read from another server, or lent."""
        generation = answer.generation
        source = self._side.source(generation.kv_transfer_params)
        lends = self._side.lends(generation.kv_transfer_params)
        requests: list[EngineRequest] = []
        for index, (engine_id, choice) in enumerate(zip(answer.engine_ids, generation.choices, strict=True)):
            self._answers[engine_id] = answer, index
            tokens = choice.prompt_tokens, choice.output_tokens
            request = EngineRequest(engine_id, choice.blocks, *tokens, generation.priority)
            if self._publish is not None:
                request = replace(request, content=self._content(choice, generation))
            if index == 0:
                request = replace(request, loads=source is not None, lends=lends)
            if index % generation.n:
                self._siblings.setdefault(requests[-1].request_id, []).append(request)
            else:
                requests.append(request)
        if source is not None:
            generation.remote_cached_tokens = source.remote_prefill_cached_tokens
            self._reads.expect(answer.engine_ids[0], source)
        if api_s := self.engine.profile.api_s:
            self._loop.call_later(api_s, self._enter, requests)
        else:
            self._enter(requests)

    def forget(self, engine_id: str) -> None:
        """Abort the request, at once, if it has not ended."""
        self._siblings.pop(engine_id, None)
        if self._answers.pop(engine_id, None) is not None:
            self._reads.forget(engine_id)
            self.engine.abort(engine_id)
            self.metrics.aborted()
            if self.engine.waiting:  # for the blocks that are free now, perhaps
                self._wake()

    def hold(self, call: LeaseCall) -> bool:
        """Another server is about to read what is lent. False if it is lent no more."""
        request_id = self._lent.get(call.request_id) if call.engine_id == self._side.engine_id else None
        return request_id is not None and self.engine.leases.extend(request_id, self._loop.time())

    def release(self, call: LeaseCall) -> bool:
        """Another server has read what was lent, or will not. False if it is lent no more."""
        request_id = self._lent.pop(call.request_id, None) if call.engine_id == self._side.engine_id else None
        released = request_id is not None and self.engine.leases.give_back(request_id)
        self._wake()
        return released

    def expire_leases(self) -> None:
        leases = self.engine.leases
        if leases.expire(self._loop.time()):
            self._lent = {name: request_id for name, request_id in self._lent.items() if request_id in leases}
            self._wake()

    def abort_all(self) -> None:
        for answer in dict.fromkeys(answer for answer, _ in self._answers.values()):
            answer.abort()

    def _content(self, choice: Choice, generation: Generation) -> BlockContent:
        adapter = None if generation.model == self._model else generation.model
        packed, size = choice.prompt + choice.answer, generation.block_size
        return BlockContent(choice.blocks, packed, size, adapter, generation.cache_salt)

    def _lend(self, request: FinishedRequest, generation: Generation, index: int) -> None:
        """Who has ended otherwise than by its length keeps nothing for others."""
        request_id, params = request.request_id, generation.kv_transfer_params
        if generation.choices[index].stops:
            self.engine.leases.give_back(request_id)
            return
        self._lent[self._side.lease_name(request_id, params)] = request_id
        tokens = request.prompt_tokens, request.cached_tokens
        generation.lent = self._side.lent(request_id, request.lent_blocks, *tokens)

    def _enter(self, requests: list[EngineRequest]) -> None:
        now = self._loop.time()
        for request in requests:
            if request.request_id in self._answers:  # its client has not left meanwhile
                self.engine.add(request, now)
        self._wake()

    def _read(self, engine_id: str) -> None:
        """The prompt of the request has come from another server."""
        if self.engine.loaded(engine_id):
            self._wake()

    def _load_failed(self, engine_id: str) -> None:
        if failed := self._answers.pop(engine_id, None):
            self.engine.abort(engine_id)
            self.metrics.failed()
            failed[0].fail(LOAD_FAILED)
            self._wake()

    def _wake(self) -> None:
        """There may be something to do."""
        if not self._stepping:
            self._start_step(self._loop.time())

    def _start_step(self, now: float) -> None:
        ends_at = self.engine.start_step(now)
        self._stepping = ends_at is not None
        self._reads.begin()
        if ends_at is not None:
            self._loop.call_at(ends_at, self._finish_step, ends_at)
        elif (read_s := self.engine.next_read_s) is not None:
            self._loop.call_at(read_s, self._wake)

    def _finish_step(self, ends_at: float) -> None:
        output = self.engine.finish_step(ends_at)
        if self._publish is not None:
            self._publish(self.engine.take_events())
        answers = self._answers
        self.metrics.stepped(output)
        for first in output.first_tokens:
            answer, index = answers[first.request_id]
            answer.first_token(index, first.cached_tokens)
            for sibling in self._siblings.pop(first.request_id, ()):
                self.engine.add(sibling, ends_at)
        for engine_id in output.decoding:
            answer, index = answers[engine_id]
            answer.token(index)
        for request in output.finished:
            answer, index = answers.pop(request.request_id)
            if request.lent_blocks:
                self._lend(request, answer.generation, index)
            self.metrics.finished(request, answer.finish(index))
        now = self._loop.time()
        self._start_step(ends_at if now - ends_at < MAX_LAG_S else now)
