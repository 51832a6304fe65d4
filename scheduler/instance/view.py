"""One instance as the core sees it: answers, mostly in seconds, by what is booked, what it says, and its cache."""

from collections.abc import Sequence
from dataclasses import replace

from dualmap.scheduler.attempt import Attempt, AttemptState
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import InstanceLoad, LoadReported, ServedModel
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.instance.adapters import Adapters
from dualmap.scheduler.instance.booked import Booked
from dualmap.scheduler.instance.cache_view import CacheView
from dualmap.scheduler.instance.others import Others
from dualmap.scheduler.instance.pace import FleetPace
from dualmap.scheduler.instance.reported_load import ForeignLoad, ReportedLoad
from dualmap.scheduler.instance.room import Room
from dualmap.scheduler.instance.service import Service
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.load_order import LoadOrder, load_of
from dualmap.scheduler.offers import Offer, Offers
from dualmap.scheduler.request import Request
from dualmap.scheduler.role import DECODE, Role
from dualmap.scheduler.tiers import Loads
from dualmap.scheduler.ttft_estimate import TtftEstimate, cached_tokens


class InstanceView:
    """load_s: by which instances are compared before any estimate is made (load_of). bit: under which its blocks are
    noted in Holders. suspect_until: until when it is left alone, in seconds. offer: what it serves."""

    def __init__(
        self,
        instance_id: str,
        incarnation: int,
        capacity: InstanceCapacity,
        *,
        config: SchedulerConfig,
        holders: Holders,
        loads: "LoadOrder[InstanceView]",
        pace: FleetPace,
        offers: Offers,
        models: Sequence[ServedModel] = (),
        adapters: Sequence[str] = (),
        role: Role = Role.BOTH,
        revision: str = "",
    ) -> None:
        self.instance_id = instance_id
        self.incarnation = incarnation
        self.capacity = capacity
        self.draining = False
        self.suspect_until = 0.0
        self.load_s = 0.0
        self.bit = holders.join(instance_id)
        self.booked = Booked(capacity, config)
        self.others = Others()
        self.reported = ReportedLoad()
        self.service = Service(capacity, pace, config.slow_start_s)
        self.room = Room(
            capacity, config, booked=self.booked, others=self.others, reported=self.reported, service=self.service
        )
        self.cache = CacheView(capacity.cache_blocks(config.block_tokens), holders, self.bit)
        self.offer = Offer(models, adapters, role, revision)
        self.adapters = Adapters(adapters, capacity.max_adapters)
        self.waiting = self.booked.waiting
        self.running = self.booked.running
        self.speed = self.service.speed
        self.tiers = pace.tiers
        self._block_tokens = config.block_tokens
        self._adapter_load_s = config.adapter_load_s
        self._holders = holders
        self._loads = loads
        self._offers = offers

    def forget(self) -> None:
        """The instance is gone, and nothing waits or runs here: nobody holds a block here any more."""
        self.cache.clear()
        self._holders.leave(self.bit)

    # How much there is to do.

    @property
    def waiting_count(self) -> int:
        return len(self.waiting)

    @property
    def running_count(self) -> int:
        return len(self.running)

    @property
    def waiting_tokens(self) -> int:
        return self.booked.waiting_tokens

    @property
    def booked_prefill_tokens(self) -> int:
        return self.booked.prefill_tokens

    @property
    def booked_kv_tokens(self) -> int:
        return self.booked.kv.tokens

    @property
    def booked_running(self) -> int:
        """See Room.running."""
        return len(self.running) + self.others.running

    @property
    def seconds_per_token(self) -> float:
        return self.speed.seconds_per_token

    @property
    def backlog_tokens(self) -> int:
        booked, others = self.booked, self.others
        tokens = booked.prefill_tokens + booked.waiting_tokens + others.prefilling_tokens + others.waiting_tokens
        if self.reported.foreign.waiting:  # their prompts are taken to be like ours
            tokens += int(self.reported.foreign.waiting * self.service.mean_work_tokens)
        return tokens

    @property
    def backlog_s(self) -> float:
        """Seconds until a request that arrives now would start its prefill, if it went behind all others. It looks
        longer than it is while the instance is new."""
        return self.backlog_tokens * self.speed.seconds_per_token / self.service.ramp

    def ahead_tokens(self, request: Request) -> int:
        """Prefill work that would come before such a request if it were placed here now. Of what other gateways have
        waiting, neither priorities nor tenants are known: all of it."""
        if not (waiting_tokens := self.booked.waiting_tokens):
            return self.backlog_tokens
        return self.backlog_tokens - waiting_tokens + self.waiting.work_ahead(request)

    def ahead_s(self, request: Request) -> float:
        """The same in seconds, with the ramp of a new instance."""
        return self.ahead_tokens(request) * self.speed.seconds_per_token / self.service.ramp

    @property
    def prefilling_tokens(self) -> int:
        """See Room."""
        return self.booked.prefill_tokens + self.others.prefilling_tokens

    @property
    def prefilling_s(self) -> float:
        return self.prefilling_tokens * self.speed.seconds_per_token

    def own_load(self, now: float) -> InstanceLoad:
        """What this gateway has booked, for the others."""
        return InstanceLoad(
            self.instance_id,
            len(self.running) + len(self.booked.lent),
            self.booked.prefill_tokens,
            waiting_tokens=self.booked.waiting_tokens,
            kv_tokens=self.booked.kv.tokens,
            waiting=len(self.waiting),
            seconds_per_token=self.speed.seconds_per_token,
            saved_tokens=self.service.saved_tokens,
            head_age_s=self.room.head_age_s(now),
        )

    def offers_now(self, models: Sequence[ServedModel], adapters: Sequence[str], role: Role, revision: str) -> bool:
        """It serves these from now on. Whether that is something new."""
        self.adapters.set_able(adapters)
        before, self.offer = self.offer, Offer(models, adapters, role, revision)
        return before != self.offer

    def keeps_now(self, cache_tokens: int) -> bool:
        """See InstanceCapacity. Whether that is something new: then what it said of its load was of one server of
        several."""
        if cache_tokens == self.capacity.cache_tokens:
            return False
        self.capacity = replace(self.capacity, cache_tokens=cache_tokens)
        self.cache.resize(self.capacity.cache_blocks(self._block_tokens))
        self.reported.forget()
        self._note_load()
        return True

    # What a request would be here.

    def can_run(self, request: Request) -> bool:
        """Whether the request may run here at all."""
        unable = self._offers.fleet(request).unable
        return self.instance_id not in unable and (not request.only or self.instance_id in request.only)

    def takes_tokens(self, request: Request) -> float:
        """See Offer."""
        return self.offer.takes_tokens(request.adapter or request.model, bool(request.adapter))

    def work_there(self, request: Request) -> int:
        """Prefill work of the request if it ran here after all that waits."""
        return self.to_compute(request)[1]

    def to_compute(self, request: Request) -> tuple[int, int]:
        """The same, behind the tokens of the prompt that are not cached here."""
        cached, load_work = self._cached_tokens(request), 0
        if self.tiers.seen and (loads := self._loading(request, cached)) is not None:
            cached, load_work = loads.cached_tokens, loads.work_tokens
        return request.prompt_tokens - cached, self._work(request, cached) + load_work

    def _work(self, request: Request, cached: int) -> int:
        """What has been computed elsewhere is fetched, as far as it is not cached."""
        if request.leg is DECODE:
            return max(1, int(self.service.transfers.seconds(request.prompt_tokens - cached) / self.seconds_per_token))
        return self.service.work_tokens(request.prompt_tokens, cached)

    def shared_s(self, attempt: Attempt, work_tokens: int) -> float:
        """Seconds of the attempt's work here that compute a prefix which many share."""
        if not attempt.shared_blocks:
            return 0.0
        own = self._own_work(attempt.request, attempt.shared_blocks, work_tokens)
        return (work_tokens - own) * self.speed.seconds_per_token

    def own_s(self, attempt: Attempt, work_tokens: int) -> float:
        """Seconds of the attempt's work here, without what computes a prefix that many share."""
        return work_tokens * self.speed.seconds_per_token - self.shared_s(attempt, work_tokens)

    def _own_work(self, request: Request, shared_blocks: int, work_tokens: int) -> int:
        """Of the request's work here, what does not compute a prefix that many share: its first `shared_blocks`."""
        shared = cached_tokens(request, shared_blocks, self._block_tokens)
        return min(work_tokens, self.service.work_tokens(request.prompt_tokens, shared))

    def estimate_ttft(self, request: Request, shared_blocks: int = 0, tpot_slo_s: float = 0.0) -> TtftEstimate:
        """For the request if it were placed here now. shared_blocks: leading blocks that many share. tpot_slo_s: its
        objective; 0: it has none."""
        held = cached = self._cached_tokens(request)
        loads, load_work = self._loading(request, cached) if self.tiers.seen else None, 0
        if loads is not None:
            cached, held, load_work = loads.cached_tokens, loads.worth_tokens, loads.work_tokens
        work = self._work(request, cached)
        seconds_per_token = self.speed.seconds_per_token
        prefill_s = work * seconds_per_token
        wait_s = self.ahead_s(request) + load_work * seconds_per_token
        if request.adapter and not self.adapters.is_loaded(request.adapter):
            wait_s += self._adapter_load_s
        slo_s, shared_s = self.booked.strictest_tpot_slo(tpot_slo_s), 0.0
        if shared_blocks:
            held = max(held, cached_tokens(request, shared_blocks, self._block_tokens))
            shared_s = prefill_s - self._own_work(request, shared_blocks, work) * seconds_per_token
        return TtftEstimate(
            self.instance_id,
            cached,
            request.prompt_tokens - cached,
            work_tokens=work + load_work,
            running=len(self.running),
            prefill_s=prefill_s,
            total_s=wait_s + prefill_s,
            held_tokens=held,
            shared_s=shared_s,
            tpot_s=self.room.tpot_with(request.prompt_tokens) if slo_s else 0.0,
            tpot_slo_s=slo_s,
            lag_s=self.room.lag_s(request.prompt_tokens),
            loads=loads,
        )

    def _cached_tokens(self, request: Request) -> int:
        return cached_tokens(request, self.cache.cached_blocks(request.blocks), self._block_tokens)

    def _loading(self, request: Request, pool_tokens: int) -> Loads | None:
        """What it would load of the prompt, beside what its pool has; None: nothing."""
        return self.tiers.loads(request, pool_tokens, self.cache.slow, self.offer.revision, self._block_tokens)

    # What happens to its requests.

    def _note_load(self) -> None:
        """Something has changed of what LoadOrder compares."""
        backlog_s = self.backlog_s
        load_s = self.load_s = load_of(backlog_s, self.booked_running)
        self._loads.changed(self, self.instance_id, load_s, backlog_s)

    def enqueue(self, attempt: Attempt) -> None:
        self.booked.enqueue(attempt, self.room.handicap * attempt.work_tokens * self.speed.seconds_per_token)
        self._loads.waiting += 1
        self.cache.expect(attempt.request.blocks)
        self._note_load()

    def take_out(self, attempt: Attempt, *, starts: bool = False) -> None:
        """The attempt no longer waits here: it starts here, moves, or is over."""
        self.booked.take_out(attempt, starts=starts)
        self._loads.waiting -= 1
        self.cache.unexpect(attempt.request.blocks)
        self._note_load()

    def dispatch(self, attempt: Attempt, answer_tokens: int, now: float) -> None:
        request = attempt.request
        cached = cached_tokens(request, self.cache.held_blocks(request.blocks), self._block_tokens)
        if not self.booked.prefill_tokens:
            self.speed.starts(now)
        loads = self._loading(request, cached) if self.tiers.seen else None
        if loads is not None:
            cached = loads.cached_tokens
        work = 0 if request.leg is DECODE else self._work(request, cached) + (0 if loads is None else loads.work_tokens)
        self.booked.dispatch(attempt, cached, work, answer_tokens, now, loads)
        self.service.given(attempt)
        self.cache.use(request.blocks)
        if request.adapter:
            self.adapters.use(request.adapter)
        self._note_load()

    def assume_prefilled(self, attempt: Attempt) -> None:
        """Its first token will not be seen: it should be there by now."""
        self.booked.prefilled(attempt)
        attempt.assume_prefilled()
        self._note_load()

    def began(self, attempt: Attempt, now: float) -> None:
        """Its first token was seen."""
        self.service.answered_at = now
        prefills = attempt.state is AttemptState.PREFILLING
        if prefills:
            self.booked.prefilled(attempt)
        attempt.begin(self.room.decode_load, now)
        if prefills:
            self._note_load()

    def fetched(self, attempt: Attempt, now: float) -> None:
        """Its first token was seen, after its prompt was fetched: how long that took, where nothing else was to do."""
        if not self.prefilling_tokens and self.speed.since_s == attempt.dispatched_at and attempt.request.streams:
            self.service.transfers.observe(attempt.uncached_tokens, now - attempt.dispatched_at)

    def answered(self, attempt: Attempt, output_tokens: int, now: float) -> float | None:
        """See Service."""
        return self.service.answered(attempt, output_tokens, self.room.decode_load, now)

    def observe_prefill(self, attempt: Attempt, now: float) -> None:
        """Its prompt is computed, as its first output tells."""
        self.service.prefilled(attempt, self.work_done_with(attempt), now)

    def learn_from_usage(self, attempt: Attempt, prompt_tokens: int, cached_tokens: int, now: float) -> None:
        """The answer to the attempt is complete, and says how long its prompt was and how much of it was cached."""
        self.service.learn_work(attempt, prompt_tokens, cached_tokens, now)
        block_tokens = attempt.request.block_tokens or self._block_tokens
        self.cache.was_right(attempt.pool_tokens < cached_tokens + block_tokens)

    def never_ran(self, attempt: Attempt) -> None:
        """The instance has computed nothing of the attempt's prompt. What others that run here share of it is theirs
        to bring."""
        block_tokens = attempt.request.block_tokens or self._block_tokens
        start = attempt.first_block_brought(block_tokens)
        kept = self.booked.left_to_others(attempt, start, block_tokens)
        self.cache.drop(attempt.request.blocks[start + kept :])

    def release(self, attempt: Attempt, *, lends: bool = False) -> None:
        """See Booked."""
        self.booked.release(attempt, lends=lends)
        self._note_load()

    def work_done_with(self, attempt: Attempt) -> int:
        """What the instance has computed since the prompt before this one: its own work, and what other gateways had
        computed meanwhile, as their share of what is booked says."""
        booked_tokens = self.booked.prefill_tokens
        if self.others.load is None or not booked_tokens:
            return attempt.work_tokens
        return attempt.work_tokens * self.prefilling_tokens // booked_tokens

    # What is heard of it, and what time does.

    def hear(self, report: LoadReported, now: float) -> None:
        """What the instance says of its load."""
        kv_tokens = int(report.kv_used * self.capacity.kv_tokens)
        there = ForeignLoad(report.running + report.waiting, report.waiting, kv_tokens)
        self.reported.hear(there, self.room.running, self.room.kv_tokens, at=now - report.age_s)
        self.reported.check(self.service.answered_at, now)
        for adapter in report.adapters:
            self.adapters.use(adapter)
        self._note_load()

    def hear_of_others(self, load: InstanceLoad | None, at: float, window_s: float) -> None:
        """What other gateways had booked here at that moment, as they said. None: nothing."""
        self.others.hear(load, at)
        self.others.note_unused(self.others.waiting > 0 and len(self.waiting) > 0 and self.room.is_there(window_s))
        self._note_load()

    def age_others(self, now: float) -> bool:
        """See Others.age."""
        aged = self.others.age(now, self.speed.seconds_per_token)
        if aged:
            self._note_load()
        return aged

    def ramp_up(self, now: float) -> None:
        self.service.ramp_up(now)
        self._note_load()

    def look_around(self, elapsed_s: float, now: float) -> None:
        """Called from time to time, whatever happens; elapsed_s: since the last time."""
        self.reported.check(self.service.answered_at, now)
        self.service.fade(elapsed_s)
        if not self.speed.is_known:
            self.speed.refresh()
            self._note_load()

    def check(self) -> None:
        """Raise AssertionError where what is kept here contradicts itself."""
        self.booked.check()
        self.cache.check(attempt.request.blocks for attempt in self.waiting)
        for attempt in (*self.waiting, *self.running.values()):
            name = attempt.request.id
            assert attempt.instance_id == self.instance_id, f"{name!r} is at another instance"
            tokens = attempt.cached_tokens + attempt.uncached_tokens
            assert tokens == attempt.request.prompt_tokens, f"tokens of {name!r}"
            computed = 0 if attempt.request.leg is DECODE else attempt.uncached_tokens
            assert attempt.work_tokens >= computed >= 0, f"work of {name!r}"
        assert self.others.prefilling_tokens >= 0, "what others have booked"
