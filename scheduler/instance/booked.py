"""What this gateway has booked on an instance. Everything taken is given back once: each transition has its inverse."""

from collections import Counter

from dualmap.scheduler.attempt import Attempt, AttemptState
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.kv_booking import KvBooking
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.request import Request
from dualmap.scheduler.tenant_shares import TenantShares
from dualmap.scheduler.tiers import Loads
from dualmap.scheduler.wait_queues import WaitQueue


class Booked:
    """Four transitions keep it: enqueue, take_out, dispatch, prefilled; `release` undoes what is left of a dispatch,
    take_back what lend does, or a release that lends.

    waiting_tokens: prefill work of what waits in the gateway. prefill_tokens: dispatched, not yet computed. Both in
    tokens of a short prompt: what a long one's attention costs is in them (Service.work_tokens).
    context_tokens: prompts of what runs. running: by request id. lent: the same, those whose prompts wait here to be
    fetched; None: it is taken to be fetched, and its memory to be free.
    """

    def __init__(self, capacity: InstanceCapacity, config: SchedulerConfig) -> None:
        self.waiting = WaitQueue(by_deadline=config.deadline_order, patience_slos=config.patience_slos)
        self.running: dict[str, Attempt] = {}
        self.lent: dict[str, Request | None] = {}
        self.waiting_tokens = 0
        self.prefill_tokens = 0
        self.context_tokens = 0
        self.kv = KvBooking()
        self.shares = TenantShares(capacity.max_running, capacity.kv_tokens)
        self._tpot_slos: dict[float, int] = {}  # objective -> running requests that have it
        self._block_tokens = config.block_tokens

    def enqueue(self, attempt: Attempt, handicap_s: float) -> None:
        self.waiting.add(attempt, handicap_s)
        self.waiting_tokens += attempt.work_tokens

    def take_out(self, attempt: Attempt, *, starts: bool) -> None:
        """The attempt no longer waits here: it starts here, moves, or is over."""
        self.waiting.remove(attempt, starts=starts)
        self.waiting_tokens -= attempt.work_tokens

    def dispatch(
        self,
        attempt: Attempt,
        cached_tokens: int,
        work_tokens: int,
        answer_tokens: int,
        now: float,
        loads: Loads | None = None,
    ) -> None:
        request = attempt.request
        block_tokens = self.kv_block_tokens(request)
        own_kv_tokens = request.prompt_tokens - len(request.blocks) * block_tokens + answer_tokens
        attempt.dispatch(cached_tokens, work_tokens, own_kv_tokens, now, loads)
        self.running[request.id] = attempt
        self.prefill_tokens += work_tokens
        self.context_tokens += request.prompt_tokens
        if attempt.tpot_slo_s:
            self._tpot_slos[attempt.tpot_slo_s] = self._tpot_slos.get(attempt.tpot_slo_s, 0) + 1
        self.kv.book(request.blocks, block_tokens, own_kv_tokens)
        self.shares.take(request.tenant, request.prompt_tokens + answer_tokens)

    def lend(self, request: Request) -> None:
        """Its prompt was computed here, and is kept for another instance."""
        if request.id in self.lent:
            return
        block_tokens = self.kv_block_tokens(request)
        self.lent[request.id] = request
        self.kv.book(request.blocks, block_tokens, self._lent_tokens(request))

    def take_back(self, request: Request) -> None:
        """Its prompt is kept here no more."""
        self.free_lent(request)
        del self.lent[request.id]

    def free_lent(self, request: Request) -> None:
        """Its prompt should be fetched by now, which was not seen. Who fetches it may still be at it."""
        if self.lent[request.id] is not None:
            self.lent[request.id] = None
            self.kv.give_back(request.blocks, self._lent_tokens(request))

    def _lent_tokens(self, request: Request) -> int:
        """Of its prompt, besides its blocks."""
        return request.prompt_tokens - len(request.blocks) * self.kv_block_tokens(request)

    def prefilled(self, attempt: Attempt) -> None:
        """Called while the attempt is still PREFILLING."""
        self.prefill_tokens -= attempt.work_tokens

    def release(self, attempt: Attempt, *, lends: bool = False) -> None:
        """The attempt runs here no more, however it ended. lends: its prompt is kept for another instance."""
        request = attempt.request
        del self.running[request.id]
        self.context_tokens -= request.prompt_tokens
        if attempt.tpot_slo_s:
            self._tpot_slos[attempt.tpot_slo_s] -= 1
            if not self._tpot_slos[attempt.tpot_slo_s]:
                del self._tpot_slos[attempt.tpot_slo_s]
        if lends:
            self.lent[request.id] = request
            self.kv.give_back_own(attempt.own_kv_tokens - self._lent_tokens(request))
        else:
            self.kv.give_back(request.blocks, attempt.own_kv_tokens)
        self.shares.give_back(request.tenant, self._all_kv_tokens(attempt))
        if attempt.state is AttemptState.PREFILLING:
            self.prefill_tokens -= attempt.work_tokens

    def left_to_others(self, attempt: Attempt, start: int, block_tokens: int) -> int:
        """How many blocks of the attempt's prompt from that one on others that run here bring, since it does not."""
        blocks = attempt.request.blocks[start:]
        kept = 0
        for other in self.running.values():
            shared = 0 if other is attempt else _shared_length(blocks, other.request.blocks[start:])
            if shared:
                other.bring(min(start, other.first_block_brought(block_tokens)))
                kept = max(kept, shared)
        return kept

    def strictest_tpot_slo(self, tpot_slo_s: float) -> float:
        """Of those that run here and one with this objective; 0 where nobody has any."""
        if not self._tpot_slos:
            return tpot_slo_s
        strictest_s = min(self._tpot_slos)
        return min(strictest_s, tpot_slo_s) if tpot_slo_s else strictest_s

    def kv_block_tokens(self, request: Request) -> int:
        """What each block is taken to hold: all of them no more than the prompt. The block of a short prompt, or of a
        chat's opening, is shorter than others."""
        block_tokens = request.block_tokens or self._block_tokens
        return min(block_tokens, request.prompt_tokens // len(request.blocks)) if request.blocks else block_tokens

    def _all_kv_tokens(self, attempt: Attempt) -> int:
        return attempt.own_kv_tokens + len(attempt.request.blocks) * self.kv_block_tokens(attempt.request)

    def check(self) -> None:
        """Raise AssertionError where the sums are not those of what waits and runs."""
        self.waiting.check()
        running = list(self.running.values())
        assert all(a.state is AttemptState.WAITING for a in self.waiting), "one that does not wait is queued"
        assert not any(a.state in (AttemptState.WAITING, AttemptState.OVER) for a in running), "one that does not run"
        assert self.waiting_tokens == sum(a.work_tokens for a in self.waiting), "waiting_tokens"
        prefilling = [a for a in running if a.state is AttemptState.PREFILLING]
        assert self.prefill_tokens == sum(a.work_tokens for a in prefilling), "prefill_tokens"
        assert self.context_tokens == sum(a.request.prompt_tokens for a in running), "context_tokens"
        assert self._tpot_slos == Counter(a.tpot_slo_s for a in running if a.tpot_slo_s), "objectives of what runs"
        booked = [(a.request.blocks, a.own_kv_tokens) for a in running]
        self.kv.check([*booked, *((r.blocks, self._lent_tokens(r)) for r in self.lent.values() if r is not None)])
        self.shares.check([(a.request.tenant, self._all_kv_tokens(a)) for a in running])


def _shared_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many leading blocks are the same."""
    return next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), min(len(a), len(b)))
