"""One instance as the core sees it: its capacity, what is booked on it, what it says of itself, and the cache it is
believed to hold."""

from collections.abc import Sequence, Set
from dataclasses import replace
from math import inf

from dualmap.scheduler.attempt import Attempt, AttemptState
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import InstanceCapacity, InstanceLoad, LoadReported
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.instance.adapters import Adapters
from dualmap.scheduler.instance.cache_view import CacheView
from dualmap.scheduler.instance.kv_booking import KvBooking
from dualmap.scheduler.instance.pace import FleetPace, PrefillSpeed
from dualmap.scheduler.instance.reported_load import ForeignLoad, ReportedLoad
from dualmap.scheduler.instance.tenant_shares import SHARED_WINDOW, TenantShares
from dualmap.scheduler.instance.token_pace import SEQUENCE_TOKENS, TokenPace
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.request import Request
from dualmap.scheduler.ttft_estimate import TtftEstimate, cached_tokens
from dualmap.scheduler.wait_queues import WaitQueue

WORK_MEMORY = 16.0  # prompts over which the mean work of one is taken
OTHERS_FRESH_S = 0.3  # three times the interval at which gateways tell each other what they have booked
OTHERS_KEPT_S = 5.0  # what was said longer ago says nothing
LEAST_RAMP = 0.1  # of the load of an instance in full service: what it starts with
# A request that came so much earlier in another gateway goes first. For less, an instance is not left without work
# until the other gateway hears that it has room.
YIELD_AFTER_S = 0.3
MAX_YIELD_S = 0.2  # that room is left to another gateway, as far as is heard, and it does not use it
SAVED_MEMORY_S = (
    300.0  # time over which what a cache saved counts: prefixes that are not used any more are worth nothing
)


class InstanceView:
    """Books are kept by four transitions: enqueue, take_out, dispatch, prefilled; `release` undoes what is left of a
    dispatch.

    waiting_tokens: prefill work of what waits in the gateway. booked_prefill_tokens: dispatched, not yet computed.
    Both in tokens of a short prompt: what a long one's attention costs is in them (`work_tokens`).
    others: what other gateways had booked here at `others_at`. reported: what the instance itself says.
    load_s: by which instances are compared before any estimate is made; LoadOrder keeps it.
    ramp: share of its load that it is given; below 1 after it has joined others at work.
    answered_at, usage_at: when something of an answer last came from it, and when one said what was cached, in seconds;
    usage_at is None until one did.
    """

    def __init__(
        self,
        instance_id: str,
        incarnation: int,
        capacity: InstanceCapacity,
        config: SchedulerConfig,
        holders: Holders,
        loads: LoadOrder,
        pace: FleetPace,
        adapters: Sequence[str] = (),
    ) -> None:
        self.instance_id = instance_id
        self.incarnation = incarnation
        self.capacity = capacity
        self.draining = False
        self.suspect_until = 0.0
        self.others: InstanceLoad | None = None
        self.others_at = 0.0
        self._aged_at = 0.0  # until when the work that others had here is counted as done
        self._unused_since = inf  # when room that others could use was heard of
        self.reported = ReportedLoad()
        self.answered_at = -inf
        self.usage_at: float | None = None
        self.waiting = WaitQueue(by_deadline=config.deadline_order, patience_slos=config.patience_slos)
        self.running: dict[str, Attempt] = {}  # by request id
        self.speed = PrefillSpeed(capacity.prefill_tokens_per_s, pace)
        self.token_pace = TokenPace(pace.tokens)
        self._context_tokens = 0  # prompts of what runs
        self._tpot_slos: dict[float, int] = {}  # objective -> running requests that have it
        self.waiting_tokens = 0
        self.booked_prefill_tokens = 0
        self.kv = KvBooking()
        self._shares = TenantShares(capacity.max_running, capacity.kv_tokens)
        self.ramp = 1.0
        self._slow_start_s = config.slow_start_s
        self._joined_at = 0.0
        self.adapters = Adapters(adapters, capacity.max_adapters)
        self._adapter_load_s = config.adapter_load_s
        self._saved_tokens = 0.0
        self._mean_work_tokens = 0.0  # of the prompts sent here
        self._handicap = config.length_handicap if config.deadline_order else 0.0
        self._block_tokens = config.block_tokens
        self._attention_tokens = capacity.attention_tokens
        self._loads = loads
        self.load_s = 0.0
        self._holders = holders
        self.bit = holders.join(instance_id)
        self.cache = CacheView((capacity.cache_tokens or capacity.kv_tokens) // config.block_tokens, holders, self.bit)

    def forget(self) -> None:
        """The instance is gone, and nothing waits or runs here: nobody holds a block here any more."""
        self.cache.clear()
        self._holders.leave(self.bit)

    @property
    def waiting_count(self) -> int:
        return len(self.waiting)

    @property
    def running_count(self) -> int:
        return len(self.running)

    @property
    def booked_kv_tokens(self) -> int:
        return self.kv.tokens

    @property
    def has_answered(self) -> bool:
        return self.answered_at > -inf

    def start_slowly(self, now: float) -> None:
        self._joined_at = now
        if self._slow_start_s:
            self.ramp = LEAST_RAMP

    def ramp_up(self, now: float) -> None:
        self.ramp = min(1.0, max(LEAST_RAMP, (now - self._joined_at) / self._slow_start_s))
        self._loads.changed(self)

    @property
    def saved_tokens(self) -> int:
        """Prompt tokens found cached here in the last minutes: what its leaving would cost."""
        return int(self._saved_tokens)

    def fade(self) -> None:
        """A second has passed."""
        self._saved_tokens *= 1.0 - 1.0 / SAVED_MEMORY_S

    @property
    def seconds_per_token(self) -> float:
        return self.speed.seconds_per_token

    @property
    def backlog_tokens(self) -> int:
        tokens = self.booked_prefill_tokens + self.waiting_tokens
        if self.others is not None:
            tokens += self.others.prefilling_tokens + self.others.waiting_tokens
        if self.reported.foreign.waiting:  # their prompts are taken to be like ours
            tokens += int(self.reported.foreign.waiting * self._mean_work_tokens)
        return tokens

    @property
    def backlog_s(self) -> float:
        """Seconds until a request that arrives now would start its prefill, if it went behind all others. It looks
        longer than it is while the instance is new."""
        return self.backlog_tokens * self.speed.seconds_per_token / self.ramp

    def ahead_tokens(self, request: Request) -> int:
        """Prefill work that would come before such a request if it were placed here now. Of what other gateways have
        waiting, neither priorities nor tenants are known: all of it."""
        if not self.waiting_tokens:
            return self.backlog_tokens
        return self.backlog_tokens - self.waiting_tokens + self.waiting.work_ahead(request)

    def ahead_s(self, request: Request) -> float:
        """The same in seconds, with the ramp of a new instance."""
        return self.ahead_tokens(request) * self.speed.seconds_per_token / self.ramp

    @property
    def prefilling_tokens(self) -> int:
        """Prefill work that the instance has been given, by whichever gateway, and has not done."""
        others = self.others.prefilling_tokens if self.others is not None else 0
        return self.booked_prefill_tokens + others

    @property
    def prefilling_s(self) -> float:
        return self.prefilling_tokens * self.speed.seconds_per_token

    def work_tokens(self, prompt_tokens: int, cached: int) -> int:
        """Prefill work of a prompt. A token's attention to `attention_tokens` before it costs as much as all else of
        the token."""
        uncached = prompt_tokens - cached
        if not self._attention_tokens:
            return uncached
        return uncached + int(uncached * (prompt_tokens + cached) / (2 * self._attention_tokens))

    def work_there(self, request: Request) -> int:
        """Prefill work of the request if it ran here after all that waits."""
        return self.work_tokens(request.prompt_tokens, self._cached_tokens(request))

    def shared_s(self, attempt: Attempt, work_tokens: int) -> float:
        """Seconds of the attempt's work here that compute a prefix which many share."""
        if not attempt.shared_blocks:
            return 0.0
        own = self._own_work(attempt.request, attempt.shared_blocks, work_tokens)
        return (work_tokens - own) * self.speed.seconds_per_token

    def can_run(self, request: Request) -> bool:
        """Whether the request may run here at all."""
        return self.adapters.can_run(request.adapter) and (not request.only or self.instance_id in request.only)

    def own_s(self, attempt: Attempt, work_tokens: int) -> float:
        """Seconds of the attempt's work here, without what computes a prefix that many share."""
        return work_tokens * self.speed.seconds_per_token - self.shared_s(attempt, work_tokens)

    def _own_work(self, request: Request, shared_blocks: int, work_tokens: int) -> int:
        """Of the request's work here, what does not compute a prefix that many share: its first `shared_blocks`."""
        shared = cached_tokens(request, shared_blocks, self._block_tokens)
        return min(work_tokens, self.work_tokens(request.prompt_tokens, shared))

    @property
    def decode_load(self) -> float:
        """Tokens of context that are read for one token of all who run here, whoever sent them; a sequence more counts
        as some tokens more."""
        others = self.others.kv_tokens if self.others is not None else 0
        context_tokens = self._context_tokens + others + self.reported.foreign.kv_tokens
        return context_tokens + SEQUENCE_TOKENS * self._all_running

    def tpot_with(self, prompt_tokens: int) -> float:
        """Seconds per output token here if one more request with such a prompt ran; 0 where nothing is known yet."""
        return self.token_pace.gap_s(self.decode_load + prompt_tokens + SEQUENCE_TOKENS)

    def strictest_tpot_slo(self, tpot_slo_s: float) -> float:
        """Of those that run here and one with this objective; 0 where nobody has any."""
        if not self._tpot_slos:
            return tpot_slo_s
        strictest_s = min(self._tpot_slos)
        return min(strictest_s, tpot_slo_s) if tpot_slo_s else strictest_s

    def keeps_pace(self, prompt_tokens: int, tpot_slo_s: float) -> bool:
        """Whether all who run here and one more, with this objective, would have their tokens in time. An idle instance
        takes anything."""
        slo_s = self.strictest_tpot_slo(tpot_slo_s)
        return not slo_s or not self.running or self.tpot_with(prompt_tokens) <= slo_s

    def estimate_ttft(self, request: Request, shared_blocks: int = 0, tpot_slo_s: float = 0.0) -> TtftEstimate:
        """For the request if it were placed here now. shared_blocks: leading blocks that many share. tpot_slo_s: its
        objective; 0: it has none."""
        cached = self._cached_tokens(request)
        work = self.work_tokens(request.prompt_tokens, cached)
        seconds_per_token = self.speed.seconds_per_token
        prefill_s = work * seconds_per_token
        wait_s = self.ahead_s(request)
        if request.adapter and not self.adapters.is_loaded(request.adapter):
            wait_s += self._adapter_load_s
        slo_s = self.strictest_tpot_slo(tpot_slo_s)
        return TtftEstimate(
            self.instance_id,
            cached,
            request.prompt_tokens - cached,
            work,
            len(self.running),
            prefill_s,
            wait_s + prefill_s,
            max(cached, cached_tokens(request, shared_blocks, self._block_tokens)) if shared_blocks else cached,
            prefill_s - self._own_work(request, shared_blocks, work) * seconds_per_token if shared_blocks else 0.0,
            self.tpot_with(request.prompt_tokens) if slo_s else 0.0,
            slo_s,
        )

    def enqueue(self, attempt: Attempt) -> None:
        self.waiting.add(attempt, self._handicap * attempt.work_tokens * self.speed.seconds_per_token)
        self.waiting_tokens += attempt.work_tokens
        self._loads.waiting += 1
        self.cache.expect(attempt.request.blocks)
        self._loads.changed(self)

    def take_out(self, attempt: Attempt, *, starts: bool = False) -> None:
        """The attempt no longer waits here: it starts here, moves, or is over."""
        self.waiting.remove(attempt, starts=starts)
        self.waiting_tokens -= attempt.work_tokens
        self._loads.waiting -= 1
        self.cache.unexpect(attempt.request.blocks)
        self._loads.changed(self)

    def has_room(self, window_s: float) -> bool:
        """Whether it could begin with another prompt now. One that idles takes anything, whatever it reports."""
        if not self.booked_running:
            return True
        if self.reported.stale or self._all_running >= self.capacity.max_running * self.ramp:
            return False
        if self._shares.several:
            window_s *= SHARED_WINDOW
        return not self.prefilling_tokens or self.prefilling_s < window_s

    def next_waiting(self, now: float) -> Attempt | None:
        """Who starts next, of those that wait and may. Half of the others' work is taken to come before."""
        ahead = self.prefilling_tokens + (self.others.waiting_tokens // 2 if self.others is not None else 0)
        spt = self.speed.seconds_per_token
        return self.waiting.next(now, now + ahead * spt, spt, self.crowding())

    def crowding(self) -> Set[str]:
        """Tenants of which no more may start here at present."""
        return self._shares.crowding(self._all_running, self._all_kv_tokens)

    def head_age_s(self, now: float) -> float | None:
        """See InstanceLoad."""
        attempt = self.next_waiting(now)
        return self._age_s(attempt, now) if attempt is not None else None

    def _age_s(self, attempt: Attempt, now: float) -> float | None:
        work_s = attempt.work_tokens * self.speed.seconds_per_token
        if now + work_s > attempt.deadline_s:
            return None
        return now - attempt.arrived_at - self._handicap * work_s

    @property
    def others_wait(self) -> bool:
        """Requests wait for it in other gateways."""
        return self.others is not None and self.others.waiting > 0

    @property
    def others_work(self) -> bool:
        """Requests of other gateways wait for it, or compute their prompts there."""
        return self.others_wait or (self.others is not None and self.others.prefilling_tokens > 0)

    def yields(self, attempt: Attempt, now: float) -> bool:
        """Whether the room there is belongs to a request that waits in another gateway and comes before this one. After
        a while without anybody using it, it does not."""
        others = self.others
        if others is None or others.head_age_s is None or self.others_at - self._unused_since > MAX_YIELD_S:
            return False
        age_s = self._age_s(attempt, now)
        return age_s is None or age_s + YIELD_AFTER_S < others.head_age_s + now - self.others_at

    def has_kv(self, request: Request, answer_tokens: int) -> bool:
        """Whether the request's KV cache would fit beside what runs. An idle instance takes anything."""
        if not self.running:
            return True
        free = self.capacity.kv_tokens - self._all_kv_tokens - self.reported.foreign.kv_tokens
        need = request.prompt_tokens + answer_tokens
        if need <= free:
            return True
        block_tokens = self._kv_block_tokens(request)
        shared = len(request.blocks) * block_tokens - self.kv.missing_tokens(request.blocks, block_tokens)
        return need - shared <= free

    def dispatch(self, attempt: Attempt, answer_tokens: int, now: float) -> None:
        request = attempt.request
        block_tokens = self._kv_block_tokens(request)
        held = self.cache.held_blocks(request.blocks)
        attempt.cached_tokens = cached_tokens(request, held, self._block_tokens)
        attempt.uncached_tokens = request.prompt_tokens - attempt.cached_tokens
        attempt.work_tokens = self.work_tokens(request.prompt_tokens, attempt.cached_tokens)
        attempt.own_kv_tokens = request.prompt_tokens - len(request.blocks) * block_tokens + answer_tokens
        attempt.state = AttemptState.PREFILLING
        self.running[request.id] = attempt
        self._context_tokens += request.prompt_tokens
        if attempt.tpot_slo_s:
            self._tpot_slos[attempt.tpot_slo_s] = self._tpot_slos.get(attempt.tpot_slo_s, 0) + 1
        self._saved_tokens += attempt.cached_tokens
        if not self.booked_prefill_tokens:
            self.speed.starts(now)
        self.booked_prefill_tokens += attempt.work_tokens
        self._mean_work_tokens += (attempt.work_tokens - self._mean_work_tokens) / WORK_MEMORY
        self.kv.book(request.blocks, block_tokens, attempt.own_kv_tokens)
        self._shares.take(request.tenant, request.prompt_tokens + answer_tokens)
        self.cache.use(request.blocks)
        if request.adapter:
            self.adapters.use(request.adapter)
        self._loads.changed(self)

    def prefilled(self, attempt: Attempt) -> None:
        """Its first token was seen, or is assumed."""
        attempt.state = AttemptState.DECODING
        self.booked_prefill_tokens -= attempt.work_tokens
        self._loads.changed(self)

    def began(self, attempt: Attempt, now: float) -> None:
        """Its first token was seen."""
        attempt.started = True
        attempt.began_at = now
        attempt.began_load = self.decode_load
        self.answered_at = now

    def answered(self, attempt: Attempt, output_tokens: int, now: float) -> float | None:
        """Its answer is complete: seconds per token after the first; None where that was not to be seen."""
        self.answered_at = now
        if not attempt.started or not attempt.request.streams or output_tokens < 2:
            return None
        gap_s = (now - attempt.began_at) / (output_tokens - 1)
        self.token_pace.observe(gap_s, (attempt.began_load + self.decode_load) / 2, output_tokens - 1)
        return gap_s

    def work_done_with(self, attempt: Attempt) -> int:
        """What the instance has computed since the prompt before this one: its own work, and what other gateways had
        computed meanwhile, as their share of what is booked says."""
        if self.others is None or not self.booked_prefill_tokens:
            return attempt.work_tokens
        return attempt.work_tokens * self.prefilling_tokens // self.booked_prefill_tokens

    def release(self, attempt: Attempt) -> None:
        """The attempt runs here no more, however it ended."""
        request = attempt.request
        del self.running[request.id]
        self._context_tokens -= request.prompt_tokens
        if attempt.tpot_slo_s:
            self._tpot_slos[attempt.tpot_slo_s] -= 1
            if not self._tpot_slos[attempt.tpot_slo_s]:
                del self._tpot_slos[attempt.tpot_slo_s]
        self.kv.give_back(request.blocks, attempt.own_kv_tokens)
        block_tokens = self._kv_block_tokens(request)
        self._shares.give_back(request.tenant, attempt.own_kv_tokens + len(request.blocks) * block_tokens)
        if attempt.state is AttemptState.PREFILLING:
            self.booked_prefill_tokens -= attempt.work_tokens
        self._loads.changed(self)

    def hear_of_others(self, load: InstanceLoad | None, at: float, window_s: float) -> None:
        """What other gateways had booked here at that moment, as they said. None: nothing."""
        self.others = load
        self.others_at = at
        self._aged_at = at + OTHERS_FRESH_S
        unused = self.others_wait and len(self.waiting) and self.has_room(window_s)
        self._unused_since = min(self._unused_since, at) if unused else inf
        self._loads.changed(self)

    def age_others(self, now: float) -> bool:
        """Whether others' bookings are taken to be less than they were: nothing was heard of them for a while, in which
        the instance went on with its work."""
        assert self.others is not None
        if now <= self._aged_at:
            return False
        if now - self.others_at > OTHERS_KEPT_S:
            self.others = None
        else:
            done = int((now - self._aged_at) / self.speed.seconds_per_token)
            self._aged_at = now
            prefilling_tokens = max(0, self.others.prefilling_tokens - done)
            self.others = replace(self.others, prefilling_tokens=prefilling_tokens, head_age_s=None)
        self._loads.changed(self)
        return True

    def hear(self, report: LoadReported, now: float) -> None:
        """What the instance says of its load."""
        kv_tokens = int(report.kv_used * self.capacity.kv_tokens)
        there = ForeignLoad(report.running + report.waiting, report.waiting, kv_tokens)
        self.reported.hear(there, self.booked_running, self._all_kv_tokens, now - report.age_s)
        self.reported.check(self.answered_at, now)
        for adapter in report.adapters:
            self.adapters.use(adapter)
        self._loads.changed(self)

    def learn_from_usage(self, attempt: Attempt, prompt_tokens: int, cached_tokens: int, now: float) -> None:
        """The answer to the attempt is complete, and says how long its prompt was and how much of it was cached."""
        self.usage_at = now
        if attempt.started and attempt.request.streams:  # else its work was not counted
            self.speed.correct(self.work_tokens(prompt_tokens, cached_tokens) - attempt.work_tokens)
        block_tokens = attempt.request.block_tokens or self._block_tokens
        self.cache.was_right(attempt.cached_tokens < cached_tokens + block_tokens)

    @property
    def booked_running(self) -> int:
        """Requests that this gateway and others have sent here and that have not ended."""
        return len(self.running) + (self.others.running if self.others is not None else 0)

    @property
    def _all_running(self) -> int:
        return self.booked_running + self.reported.foreign.requests

    @property
    def _all_kv_tokens(self) -> int:
        """Booked by us and by other gateways."""
        return self.kv.tokens + (self.others.kv_tokens if self.others is not None else 0)

    def _kv_block_tokens(self, request: Request) -> int:
        """What each block is taken to hold: all of them no more than the prompt. The block of a short prompt, or of a
        chat's opening, is shorter than others."""
        block_tokens = request.block_tokens or self._block_tokens
        return min(block_tokens, request.prompt_tokens // len(request.blocks)) if request.blocks else block_tokens

    def _cached_tokens(self, request: Request) -> int:
        return cached_tokens(request, self.cache.cached_blocks(request.blocks), self._block_tokens)
