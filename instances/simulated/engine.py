"""The simulated engine: continuous batching with chunked prefill after vLLM V1's scheduler. No IO and no clock.

A step first gives each decoding request its token, then spends what is left of the token budget on prompts: those begun
before, then waiting ones by (priority, arrival). Like vLLM (scheduler_reserve_full_isl) it starts a request only if its
whole prompt fits into the free blocks, but allocates them as tokens are computed. When none is left for a running
request, the one that arrived last is preempted: it loses its blocks and is computed again later.

Decoding costs no work per token: all decoding requests move by one token a step, so their positions follow from the
step number, and only those that reach a block boundary or their end are looked at.

A request whose prompt another instance has computed gets blocks for all of it, and loads; the driver knows how long
that takes. What is loaded goes before all that waits, since it holds its blocks. A request whose blocks another one is
to read leaves them to `leases` when it ends.

What of a prompt lies in the tier behind the pool is read back first, beside the steps, one prompt after the other; what
follows on it is computed then.
"""

from bisect import bisect_left, insort
from collections import OrderedDict, defaultdict

from dualmap.instances.kv_events.format import EngineEvent
from dualmap.instances.simulated.block_pool import BlockPool
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.engine_types import (
    EngineCounters,
    EngineRequest,
    FinishedRequest,
    FirstToken,
    StepOutput,
)
from dualmap.instances.simulated.leases import Leases
from dualmap.instances.simulated.tracked_request import Phase, TrackedRequest, order_of


class Engine:
    """Drive it with `start_step` and, when the time it gave has come, `finish_step`. `add` and `abort` come at any
    time, also while a step runs. offloaded: the tier behind the pool, where several engines share one. kv_events: what
    changes in both is noted, for `take_events`."""

    def __init__(
        self, profile: EngineProfile, offloaded: OrderedDict[int, None] | None = None, *, kv_events: bool = False
    ) -> None:
        self.profile = profile
        tier_blocks = profile.offload_tokens // profile.block_size
        self.pool = BlockPool(profile.pool_blocks, tier_blocks, offloaded, [] if kv_events else None)
        self.leases = Leases(self.pool)
        self.counters = EngineCounters()
        self._requests: dict[str, TrackedRequest] = {}
        self._waiting: list[TrackedRequest] = []  # sorted by order
        self._loads: list[tuple[str, int]] = []  # that begin: the request, and the tokens it has to read
        self._loading = 0
        self._loaded: list[TrackedRequest] = []  # sorted by order; they wait for their first step
        self._reading: list[tuple[float, TrackedRequest]] = []  # when what they read back is there, the first first
        self._read_s = 0.0  # when all of it is there
        self._prefilling: list[TrackedRequest] = []  # in the order they started
        self._decoding: dict[str, TrackedRequest] = {}
        self._decode_context = 0  # computed tokens of all decoding requests
        # Decoding requests, by the first step that needs a block more, and by the steps done when they are.
        self._blocks_due: defaultdict[int, list[TrackedRequest]] = defaultdict(list)
        self._ends_due: defaultdict[int, list[TrackedRequest]] = defaultdict(list)
        self._step = 0  # steps finished
        self._chunks: list[tuple[TrackedRequest, int]] | None = None  # of the step that runs: prompt tokens it computes
        self._arrivals = 0
        self._last_step_end_s = 0.0

    @property
    def running(self) -> int:
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        return len(self._waiting) + self._loading + len(self._loaded) + len(self._reading)

    @property
    def next_read_s(self) -> float | None:
        """When the next prompt is there that is being read back; None: there is none. `start_step` sees it then."""
        return self._reading[0][0] if self._reading else None

    @property
    def kv_usage(self) -> float:
        """Share of the pool that requests hold, or that is lent, 0 to 1; what is only cached does not count."""
        return (self.pool.capacity - self.pool.free_blocks) / self.pool.capacity

    def generated(self, request_id: str) -> int:
        """Tokens that a request which is there has so far."""
        tracked = self._requests[request_id]
        return tracked.generated + (self._step - tracked.since_step if tracked.phase is Phase.DECODE else 0)

    def add(self, request: EngineRequest, now: float) -> None:
        """Raises ValueError if the id is in use, a length is below 1, or both together exceed max_model_len."""
        if request.request_id in self._requests:
            raise ValueError(f"request id {request.request_id!r} is in use")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError("prompt_tokens and output_tokens must be at least 1")
        if request.prompt_tokens + request.output_tokens > self.profile.max_model_len:
            raise ValueError(f"prompt and output must have at most {self.profile.max_model_len} tokens together")
        self._arrivals += 1
        tracked = TrackedRequest(request, self._arrivals, now)
        self._requests[request.request_id] = tracked
        insort(self._waiting, tracked, key=order_of)

    def abort(self, request_id: str) -> bool:
        """Frees all it holds at once. False if there is no such request any more."""
        tracked = self._requests.get(request_id)
        if tracked is None:
            return False
        if tracked.phase is Phase.WAITING:
            queue = self._loaded if tracked.table else self._waiting
            del queue[bisect_left(queue, tracked.order, key=order_of)]
        elif tracked.phase is Phase.LOADING:
            self._loading -= 1
        elif tracked.phase is Phase.READING:
            self._reading = [(when, other) for when, other in self._reading if other is not tracked]
        else:
            self._stop_running(tracked)
        self._drop(tracked)
        return True

    def take_events(self) -> list[EngineEvent]:
        """What has changed in the cache since the last call."""
        if not self.pool.events:
            return []
        events, self.pool.events = self.pool.events, []
        return events

    def take_loads(self) -> list[tuple[str, int]]:
        """Of requests that have begun to load since the last call: the id, and the tokens to read. The driver tells
        each by `loaded` or `abort`."""
        loads, self._loads = self._loads, []
        return loads

    def loaded(self, request_id: str) -> bool:
        """The prompt has been read, all but the last token's work. False if there is no such request any more."""
        tracked = self._requests.get(request_id)
        if tracked is None or tracked.phase is not Phase.LOADING:
            return False
        self._loading -= 1
        self._store_computed(tracked, tracked.request.prompt_tokens)
        tracked.computed = tracked.request.prompt_tokens - 1
        tracked.phase = Phase.WAITING
        insort(self._loaded, tracked, key=order_of)
        return True

    def start_step(self, now: float) -> float | None:
        """When the step that starts now will end, in seconds; None if there is nothing to do."""
        if self._chunks is not None:
            raise RuntimeError("a step is running: finish it first")
        while self._reading and self._reading[0][0] <= now:
            self._read_back(self._reading.pop(0)[1])
        preempted = self.counters.preemptions
        for tracked in self._blocks_due.pop(self._step, ()):
            if tracked.phase is Phase.DECODE:  # not preempted for one before it in this list
                self._store_computed(tracked, tracked.computed_at(self._step))
                if self._grow(tracked, 1):
                    self._blocks_due[tracked.full_step(self.profile.block_size)].append(tracked)
        budget = self.profile.max_num_batched_tokens - len(self._decoding)
        chunks: list[tuple[TrackedRequest, int]] = []
        for tracked in list(self._prefilling) if self._prefilling else ():
            if tracked.phase is Phase.PREFILL and budget > 0:
                budget -= self._prefill_chunk(tracked, budget, chunks)
        # A step that had to take blocks away starts nothing, unless it would do nothing at all.
        starts = self.counters.preemptions == preempted or not (chunks or self._decoding)
        if (self._waiting or self._loaded) and starts:
            while (self._waiting or self._loaded) and budget > 0 and self.running < self.profile.max_num_seqs:
                tracked = self._loaded.pop(0) if self._loaded else self._waiting[0]
                if not self._admit(tracked, now):
                    break
                if tracked.phase is Phase.PREFILL:
                    budget -= self._prefill_chunk(tracked, budget, chunks)
        if not chunks and not self._decoding:
            return None
        self._chunks = chunks
        prefill_tokens, pairs = 0, 0.0
        for tracked, tokens in chunks:
            prefill_tokens += tokens
            pairs += tokens * (tracked.computed + tokens / 2)
        return now + self.profile.step_s(prefill_tokens, len(self._decoding), self._decode_context, pairs)

    def finish_step(self, now: float) -> StepOutput:
        """The step has ended: its tokens are there and its blocks can be hit."""
        chunks = self._chunks
        if chunks is None:
            raise RuntimeError("no step is running: start one first")
        self._chunks = None
        self._step += 1
        decoded = len(self._decoding)
        self._decode_context += decoded
        gaps = [(now - self._last_step_end_s, decoded)] if decoded else []
        self._last_step_end_s = now
        finished: list[FinishedRequest] = []
        for tracked in self._ends_due.pop(self._step, ()):
            self._stop_running(tracked)
            finished.append(self._end(tracked, now))
        first_tokens: list[FirstToken] = []
        tokens = decoded
        for tracked, computed in chunks:
            if tracked.phase is not Phase.PREFILL:
                continue  # aborted or preempted while the step ran
            tracked.computed += computed
            self._store_computed(tracked, tracked.computed)
            if tracked.computed < tracked.request.prompt_tokens + tracked.generated:
                continue
            tokens += 1
            if tracked.generated:
                gaps.append((now - tracked.last_token_s, 1))
            else:
                self.counters.prompt_tokens += tracked.request.prompt_tokens
                first_tokens.append(tracked.first_token(now))
            tracked.generated += 1
            self._prefilling.remove(tracked)
            if tracked.generated == tracked.request.output_tokens:
                finished.append(self._end(tracked, now))
            else:
                self._start_decoding(tracked)
        self.counters.generation_tokens += tokens
        return StepOutput(self._decoding.keys(), finished, first_tokens, gaps)

    def _admit(self, tracked: TrackedRequest, now: float) -> bool:
        """Start the head of a queue, with what the cache has of it; False if its blocks would not fit."""
        if tracked.table:
            self._run(tracked)
            return True
        request = tracked.request
        size = self.profile.block_size
        total = request.prompt_tokens + tracked.generated
        can_hit = request.blocks[: (total - 1) // size]  # the last token is always computed
        hits = self.pool.match(can_hit)
        missing = -(-total // size) - len(hits)
        if missing > self.pool.free_blocks - self.pool.free_among(hits):
            return False
        del self._waiting[0]
        self.pool.hold(hits)
        tracked.table = hits
        tracked.stored = len(hits)
        tracked.computed = len(hits) * size
        read_back = self.pool.match_offloaded(can_hit[len(hits) :])
        if read_back:
            tracked.table += self.pool.allocate(read_back) or []
            tracked.computed += read_back * size
        first = tracked.started_s is None
        if first:
            tracked.started_s = now
            tracked.cached = tracked.computed
            self.counters.prefix_cache_queries += request.prompt_tokens
            self.counters.prefix_cache_hits += tracked.computed - read_back * size
            self.counters.external_prefix_cache_hits += read_back * size
        if first and request.loads:
            self._store_computed(tracked, tracked.computed)
            self._load(tracked)
        elif read_s := read_back * size * self.profile.offload_s_per_token:
            self._read_s = max(self._read_s, now) + read_s
            self._reading.append((self._read_s, tracked))
            tracked.phase = Phase.READING
        else:
            self._store_computed(tracked, tracked.computed)
            self._run(tracked)
        return True

    def _read_back(self, tracked: TrackedRequest) -> None:
        """What the tier had of its prompt is in its blocks."""
        self._store_computed(tracked, tracked.computed)
        tracked.phase = Phase.WAITING
        insort(self._loaded, tracked, key=order_of)

    def _run(self, tracked: TrackedRequest) -> None:
        tracked.phase = Phase.PREFILL
        self._prefilling.append(tracked)

    def _load(self, tracked: TrackedRequest) -> None:
        """If it is preempted later, its prompt is computed here."""
        request = tracked.request
        missing = -(-request.prompt_tokens // self.profile.block_size) - len(tracked.table)
        tracked.table += self.pool.allocate(missing) or []
        tracked.phase = Phase.LOADING
        tracked.cached = request.prompt_tokens
        self.counters.external_prefix_cache_hits += request.prompt_tokens - tracked.computed
        self._loading += 1
        self._loads.append((request.request_id, request.prompt_tokens - tracked.computed))

    def _prefill_chunk(self, tracked: TrackedRequest, budget: int, chunks: list[tuple[TrackedRequest, int]]) -> int:
        """Tokens of the budget that its next piece takes."""
        tokens = min(budget, tracked.request.prompt_tokens + tracked.generated - tracked.computed)
        blocks = -(-(tracked.computed + tokens) // self.profile.block_size) - len(tracked.table)
        if not self._grow(tracked, blocks):
            return 0
        chunks.append((tracked, tokens))
        return tokens

    def _grow(self, tracked: TrackedRequest, count: int) -> bool:
        """Add blocks to its table, preempting others for them; False if it was itself preempted."""
        while (blocks := self.pool.allocate(count)) is None:
            last = max((*self._prefilling, *self._decoding.values()), key=order_of)
            self._preempt(last)
            if last is tracked:
                return False
        tracked.table += blocks
        return True

    def _preempt(self, tracked: TrackedRequest) -> None:
        self._stop_running(tracked)
        self.pool.release(tracked.table)
        tracked.table = []
        tracked.stored = tracked.computed = 0
        tracked.phase = Phase.WAITING
        tracked.last_token_s = self._last_step_end_s
        self.counters.preemptions += 1
        insort(self._waiting, tracked, key=order_of)

    def _start_decoding(self, tracked: TrackedRequest) -> None:
        tracked.phase = Phase.DECODE
        tracked.since_step = self._step
        self._decoding[tracked.request.request_id] = tracked
        self._decode_context += tracked.computed
        self._ends_due[tracked.end_step].append(tracked)
        self._blocks_due[tracked.full_step(self.profile.block_size)].append(tracked)

    def _stop_running(self, tracked: TrackedRequest) -> None:
        """Take it from the running requests, with its position as a plain number and its blocks in the cache."""
        if tracked.phase is Phase.PREFILL:
            self._prefilling.remove(tracked)
            return
        del self._decoding[tracked.request.request_id]
        _take_out(self._ends_due, tracked.end_step, tracked)
        _take_out(self._blocks_due, tracked.full_step(self.profile.block_size), tracked)
        tracked.settle(self._step)
        self._decode_context -= tracked.computed
        self._store_computed(tracked, tracked.computed)

    def _store_computed(self, tracked: TrackedRequest, computed: int) -> None:
        """Make its full blocks known to the cache, up to so many computed tokens."""
        request = tracked.request
        full = min(computed // self.profile.block_size, len(request.blocks))
        for i in range(tracked.stored, full):
            self.pool.store(tracked.table[i], request.blocks[i], request.content, i)
        tracked.stored = max(tracked.stored, full)

    def _end(self, tracked: TrackedRequest, now: float) -> FinishedRequest:
        finished = tracked.finished(now)
        if finished.lent_blocks:
            self.leases.lend(finished.request_id, tracked.table, now)
            tracked.table = []
        self._drop(tracked)
        return finished

    def _drop(self, tracked: TrackedRequest) -> None:
        tracked.phase = Phase.GONE
        self.pool.release(tracked.table)
        tracked.table = []
        del self._requests[tracked.request.request_id]


def _take_out(due: dict[int, list[TrackedRequest]], step: int, tracked: TrackedRequest) -> None:
    """What is being handled right now has been taken out of `due` already."""
    entries = due.get(step)
    if entries is not None:
        entries.remove(tracked)
        if not entries:
            del due[step]
