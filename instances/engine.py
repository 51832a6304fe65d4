"""A simulated vLLM V1 engine: continuous batching, chunked prefill, prefix caching. Pure: time is passed in.

The driver calls start_step, waits until the time it returns, calls finish_step, and so on. The same engine runs under a
server's event loop and in virtual time.
"""

from bisect import insort
from collections import Counter
from dataclasses import dataclass, field

from instances.block_pool import BlockPool
from instances.engine_profile import EngineProfile


@dataclass(frozen=True, slots=True)
class SimRequest:
    """blocks: chained hashes of the full blocks of prompt and answer (or of as much of it as is known).
    output_tokens: length of the answer, at least 1. priority: lower is sooner."""

    id: str
    blocks: tuple[int, ...]
    prompt_tokens: int
    output_tokens: int
    priority: int = 0


@dataclass(slots=True, eq=False)
class Sequence:
    """A request in the engine.

    computed: tokens whose keys and values are in the cache. produced: output tokens so far. scheduled: tokens the
    running step computes. held: blocks it holds by hash; private: those it holds without; closed: how many leading
    blocks are full and computed. Times in seconds; None until they have come.
    """

    request: SimRequest
    order: tuple[int, int]
    arrived_at: float
    cached_tokens: int | None = None  # at its first admission; a later one, after a preemption, finds its own blocks
    computed: int = 0
    produced: int = 0
    scheduled: int = 0
    held: list[int] = field(default_factory=list)
    private: int = 0
    closed: int = 0
    admitted_at: float | None = None
    first_token_at: float | None = None

    @property
    def to_compute(self) -> int:
        return self.request.prompt_tokens + self.produced - self.computed


@dataclass(frozen=True, slots=True)
class StepOutput:
    """produced: sequences that got a token, in batch order; finished: those of them that are complete."""

    produced: list[Sequence]
    finished: list[Sequence]


class Engine:
    def __init__(self, profile: EngineProfile) -> None:
        self.profile = profile
        self.pool = BlockPool(profile.total_blocks)
        self.waiting: list[Sequence] = []  # by priority, then arrival
        self.running: list[Sequence] = []  # by admission
        self.counters: Counter[str] = Counter()  # queries, hits, prompt and generation tokens, preemptions
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = 0
        self._batch: list[Sequence] = []
        self._stepping = False

    def add(self, request: SimRequest, now: float) -> None:
        """Raises ValueError for a request that could never run."""
        tokens = request.prompt_tokens + request.output_tokens
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError("a request has at least one prompt token and one output token")
        if -(-tokens // self.profile.block_size) > self.pool.total_blocks:
            raise ValueError(f"{tokens} tokens do not fit in a cache of {self.profile.kv_tokens}")
        self._arrivals += 1
        sequence = Sequence(request, (request.priority, self._arrivals), now)
        self._sequences[request.id] = sequence
        insort(self.waiting, sequence, key=lambda s: s.order)

    def abort(self, request_id: str) -> Sequence | None:
        """Forget the request and free its blocks at once; None if it is not there."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return None
        if sequence in self.running:
            self.running.remove(sequence)
            self._give_back(sequence)
        else:
            self.waiting.remove(sequence)
        return sequence

    def start_step(self, now: float) -> float | None:
        """Schedule a step; returns when it ends, or None if there is nothing to compute."""
        assert not self._stepping
        budget = self.profile.max_num_batched_tokens
        self._batch = []
        preempted = self.counters["preemptions"]
        index = 0
        while index < len(self.running):  # grows shorter when sequences are preempted
            budget -= self._schedule(self.running[index], budget)
            index += 1
        if self.waiting and preempted == self.counters["preemptions"]:
            self._admit(budget, now)
        if not self._batch:
            return None
        self._stepping = True
        return now + self._duration_s()

    def finish_step(self, now: float) -> StepOutput:
        """The step that was started has ended."""
        self._stepping = False
        output = StepOutput([], [])
        for sequence in self._batch:
            if sequence.request.id not in self._sequences:  # aborted during the step
                continue
            sequence.computed += sequence.scheduled
            self._close_blocks(sequence)
            if sequence.to_compute:
                continue
            sequence.produced += 1
            if sequence.first_token_at is None:
                sequence.first_token_at = now
            output.produced.append(sequence)
            if sequence.produced >= sequence.request.output_tokens:
                output.finished.append(sequence)
                del self._sequences[sequence.request.id]
                self.running.remove(sequence)
                self._give_back(sequence)
        self.counters["generation_tokens"] += len(output.produced)
        return output

    def _schedule(self, sequence: Sequence, budget: int) -> int:
        """Let a running sequence compute what it can within the budget; preempts later ones, or itself, for blocks."""
        tokens = min(sequence.to_compute, budget)
        if tokens <= 0:
            return 0
        missing = -(-(sequence.computed + tokens) // self.profile.block_size) - len(sequence.held) - sequence.private
        if missing > 0:
            while not self.pool.allocate(missing):
                last = self.running.pop()
                self._preempt(last)
                if last is sequence:
                    return 0
            sequence.private += missing
        sequence.scheduled = tokens
        self._batch.append(sequence)
        return tokens

    def _admit(self, budget: int, now: float) -> None:
        """Start waiting sequences in order, until one does not fit."""
        pool, profile = self.pool, self.profile
        while self.waiting and budget > 0 and len(self.running) < profile.max_num_seqs:
            sequence = self.waiting[0]
            request = sequence.request
            # The last known token is computed even if all are cached: it yields the next one.
            reusable = request.blocks[: (sequence.to_compute - 1) // profile.block_size]
            hits = reusable[: pool.cached(reusable)]
            cached_tokens = len(hits) * profile.block_size
            tokens = min(sequence.to_compute - cached_tokens, budget)
            missing = -(-(cached_tokens + tokens) // profile.block_size) - len(hits)
            if missing + pool.unused(hits) > pool.available_blocks:
                return
            pool.share(hits)
            pool.allocate(missing)
            del self.waiting[0]
            self.running.append(sequence)
            sequence.held = list(hits)
            sequence.private = missing
            sequence.closed = len(hits)
            sequence.computed = cached_tokens
            sequence.scheduled = tokens
            if sequence.cached_tokens is None:
                sequence.cached_tokens = cached_tokens
                sequence.admitted_at = now
                self.counters["queries"] += request.prompt_tokens
                self.counters["hits"] += cached_tokens
                self.counters["prompt_tokens"] += request.prompt_tokens
            self._batch.append(sequence)
            budget -= tokens

    def _duration_s(self) -> float:
        prefill_tokens = decode_seqs = context_tokens = 0
        for sequence in self._batch:
            if sequence.scheduled == 1 and sequence.produced:
                decode_seqs += 1
                context_tokens += sequence.computed
            else:
                prefill_tokens += sequence.scheduled
        return self.profile.duration_s(prefill_tokens, decode_seqs, context_tokens)

    def _close_blocks(self, sequence: Sequence) -> None:
        """Blocks that are full now can be found by others."""
        full = min(sequence.computed // self.profile.block_size, len(sequence.request.blocks))
        for block in sequence.request.blocks[sequence.closed : full]:
            if self.pool.name(block):
                sequence.held.append(block)
                sequence.private -= 1
        sequence.closed = max(sequence.closed, full)

    def _preempt(self, sequence: Sequence) -> None:
        """Takes its blocks; what it has computed is computed again, as far as it is not cached by then."""
        self.counters["preemptions"] += 1
        self._give_back(sequence)
        insort(self.waiting, sequence, key=lambda s: s.order)

    def _give_back(self, sequence: Sequence) -> None:
        self.pool.give_back(sequence.held, sequence.private)
        sequence.held = []
        sequence.private = 0
        sequence.computed = 0
