"""One instance as the core sees it: its capacity, what is booked on it, and the caches it is believed to hold."""

from scheduler.cache_view import CacheView
from scheduler.events import InstanceCapacity, InstanceLoad
from scheduler.holders import Holders
from scheduler.request import Attempt, AttemptState, Request
from scheduler.ttft import PrefillSpeed, TtftEstimate, cached_tokens
from scheduler.wait_queues import WaitQueue


class InstanceView:
    """Books are kept by four transitions: enqueue, take_out, dispatch, prefilled; `release` undoes what is left of a
    dispatch.

    waiting_tokens: uncached tokens of what waits in the gateway. booked_prefill_tokens: dispatched, not yet computed.
    booked_kv_tokens: reserved by what runs there.
    """

    def __init__(self, instance_id: str, incarnation: int, capacity: InstanceCapacity, block_tokens: int, holders: Holders) -> None:
        self.instance_id = instance_id
        self.incarnation = incarnation
        self.capacity = capacity
        self.draining = False
        self.suspect_until = 0.0
        self.others: InstanceLoad | None = None  # what other gateways have booked here
        self.waiting = WaitQueue()
        self.running: dict[str, Attempt] = {}  # by request id
        self._holders = holders
        self.bit = holders.join(instance_id)
        self.cache = CacheView((capacity.cache_tokens or capacity.kv_tokens) // block_tokens, holders, self.bit)
        self.speed = PrefillSpeed(capacity.prefill_tokens_per_s)
        self.waiting_tokens = 0
        self.booked_prefill_tokens = 0
        self.booked_kv_tokens = 0
        self._block_tokens = block_tokens

    def forget(self) -> None:
        """The instance is gone: nobody holds these blocks here any more."""
        self.cache.clear()
        self._holders.leave(self.bit)

    @property
    def waiting_count(self) -> int:
        return len(self.waiting)

    @property
    def running_count(self) -> int:
        return len(self.running)

    @property
    def seconds_per_token(self) -> float:
        return self.speed.seconds_per_token

    @property
    def backlog_tokens(self) -> int:
        return self.booked_prefill_tokens + self.waiting_tokens

    @property
    def backlog_s(self) -> float:
        """Seconds until a request that arrives now would start its prefill."""
        others = self.others.prefill_tokens if self.others is not None else 0
        return (self.backlog_tokens + others) * self.speed.seconds_per_token

    def uncached_tokens(self, request: Request) -> int:
        """Tokens it would compute for the request, run after all that waits."""
        return request.prompt_tokens - self._cached_tokens(request)

    def estimate_ttft(self, request: Request) -> TtftEstimate:
        """For the request if it were placed here now."""
        cached = self._cached_tokens(request)
        uncached = request.prompt_tokens - cached
        seconds_per_token = self.speed.seconds_per_token  # the hot path: properties would cost a call each
        prefill_s = uncached * seconds_per_token
        backlog_s = (self.booked_prefill_tokens + self.waiting_tokens) * seconds_per_token
        if self.others is not None:
            backlog_s += self.others.prefill_tokens * seconds_per_token
        return TtftEstimate(self.instance_id, cached, uncached, len(self.running), prefill_s, backlog_s + prefill_s)

    def enqueue(self, attempt: Attempt, shortness_weight: float) -> None:
        self.waiting.add(attempt, shortness_weight * attempt.uncached_tokens * self.speed.seconds_per_token)
        self.waiting_tokens += attempt.uncached_tokens
        self.cache.expect(attempt.request.blocks)

    def take_out(self, attempt: Attempt) -> None:
        """The attempt no longer waits here: it starts, moves, or is over."""
        self.waiting.remove(attempt)
        self.waiting_tokens -= attempt.uncached_tokens
        self.cache.unexpect(attempt.request.blocks)

    def can_start(self, attempt: Attempt, kv_tokens: int, window_s: float) -> bool:
        """Whether the instance could begin with it now. An idle instance takes anything."""
        if not self.running:
            return True
        running, prefill_tokens, kv_tokens = len(self.running), self.booked_prefill_tokens, self.booked_kv_tokens + kv_tokens
        if self.others is not None:
            running += self.others.running
            kv_tokens += self.others.kv_tokens
            prefill_tokens += self.others.prefill_tokens
        return (
            running < self.capacity.max_running
            and prefill_tokens * self.speed.seconds_per_token < window_s
            and kv_tokens <= self.capacity.kv_tokens
        )

    def dispatch(self, attempt: Attempt, kv_tokens: int, now: float) -> None:
        request = attempt.request
        held = self.cache.held_blocks(request.blocks)
        attempt.cached_tokens = cached_tokens(request, held, self._block_tokens)
        attempt.uncached_tokens = request.prompt_tokens - attempt.cached_tokens
        attempt.kv_tokens = kv_tokens
        attempt.state = AttemptState.PREFILLING
        attempt.dispatched_at = now
        self.running[request.id] = attempt
        self.booked_prefill_tokens += attempt.uncached_tokens
        self.booked_kv_tokens += kv_tokens
        attempt.ahead_tokens = self.booked_prefill_tokens
        self.cache.use(request.blocks)

    def prefilled(self, attempt: Attempt) -> None:
        """Its first token was seen, or is assumed."""
        attempt.state = AttemptState.DECODING
        self.booked_prefill_tokens -= attempt.uncached_tokens

    def release(self, attempt: Attempt) -> None:
        """The attempt runs here no more, however it ended."""
        del self.running[attempt.request.id]
        self.booked_kv_tokens -= attempt.kv_tokens
        if attempt.state is AttemptState.PREFILLING:
            self.booked_prefill_tokens -= attempt.uncached_tokens

    def _cached_tokens(self, request: Request) -> int:
        return cached_tokens(request, self.cache.cached_blocks(request.blocks), self._block_tokens)
