"""The engine under an event loop: requests in, their tokens handed to the answers."""

import asyncio
from dataclasses import replace

from dualmap.instances.simulated.answer import PlainAnswer
from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.engine_types import EngineRequest
from dualmap.instances.simulated.generation import Generation
from dualmap.instances.simulated.metrics import SimMetrics
from dualmap.router.http.openai_errors import RequestRefusedError, unavailable

MAX_LAG_S = 0.005  # a step that ends no later than this is taken to have ended on time, or timers would add up


class EngineLoop:
    """max_queued: requests that may be in the engine, waiting or running. Each answer counts."""

    def __init__(self, profile: EngineProfile, model: str, max_queued: int | None) -> None:
        self.engine = Engine(profile)
        self.metrics = SimMetrics(self.engine, model)
        self._max_queued = max_queued
        self._loop = asyncio.get_running_loop()
        self._answers: dict[str, tuple[PlainAnswer, int]] = {}  # by engine request id: the answer, and which choice
        self._siblings: dict[str, list[EngineRequest]] = {}  # of a choice whose prompt is being computed
        self._stepping = False  # from the start of a step until all its output has been handed on

    @property
    def in_flight(self) -> int:
        return len(self._answers)

    def check_queue(self, generation: Generation) -> None:
        """Raises RequestRefusedError. vLLM sends no Retry-After."""
        if self._max_queued is not None and self.in_flight + len(generation.choices) > self._max_queued:
            message = f"Too many requests in flight: {self.in_flight}, of at most {self._max_queued}."
            raise RequestRefusedError(replace(unavailable(message), retry_after_s=None))

    def submit(self, answer: PlainAnswer) -> None:
        """Answers to the same prompt begin when the first of them has its first token: its blocks are there then."""
        generation = answer.generation
        requests: list[EngineRequest] = []
        for index, (engine_id, choice) in enumerate(zip(answer.engine_ids, generation.choices, strict=True)):
            self._answers[engine_id] = answer, index
            tokens = choice.prompt_tokens, choice.output_tokens
            request = EngineRequest(engine_id, choice.blocks, *tokens, generation.priority)
            if index % generation.n:
                self._siblings.setdefault(requests[-1].request_id, []).append(request)
            else:
                requests.append(request)
        if api_s := self.engine.profile.api_s:
            self._loop.call_later(api_s, self._enter, requests)
        else:
            self._enter(requests)

    def forget(self, engine_id: str) -> None:
        """Abort the request, at once, if it has not ended."""
        self._siblings.pop(engine_id, None)
        if self._answers.pop(engine_id, None) is not None:
            self.engine.abort(engine_id)
            self.metrics.aborted()

    def abort_all(self) -> None:
        for answer in dict.fromkeys(answer for answer, _ in self._answers.values()):
            answer.abort()

    def _enter(self, requests: list[EngineRequest]) -> None:
        now = self._loop.time()
        for request in requests:
            if request.request_id in self._answers:  # its client has not left meanwhile
                self.engine.add(request, now)
        if not self._stepping:
            self._start_step(now)

    def _start_step(self, now: float) -> None:
        ends_at = self.engine.start_step(now)
        self._stepping = ends_at is not None
        if ends_at is not None:
            self._loop.call_at(ends_at, self._finish_step, ends_at)

    def _finish_step(self, ends_at: float) -> None:
        output = self.engine.finish_step(ends_at)
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
            self.metrics.finished(request, answer.finish(index))
        now = self._loop.time()
        self._start_step(ends_at if now - ends_at < MAX_LAG_S else now)
