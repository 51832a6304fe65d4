"""What is taken of an instance, by whoever, and what may start there beside it."""

from collections.abc import Set

from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.booked import Booked
from dualmap.scheduler.instance.others import Others
from dualmap.scheduler.instance.reported_load import ReportedLoad
from dualmap.scheduler.instance.service import Service
from dualmap.scheduler.instance.token_pace import SEQUENCE_TOKENS
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.request import Request
from dualmap.scheduler.tenant_shares import SHARED_WINDOW


class Room:
    """handicap: how much later than it came a prompt takes its place, in units of its own prefill time."""

    def __init__(
        self,
        capacity: InstanceCapacity,
        config: SchedulerConfig,
        *,
        booked: Booked,
        others: Others,
        reported: ReportedLoad,
        service: Service,
    ) -> None:
        self.handicap = config.length_handicap if config.deadline_order else 0.0
        self._capacity = capacity
        self._booked = booked
        self._others = others
        self._reported = reported
        self._service = service

    @property
    def running(self) -> int:
        """Requests that this gateway and others have sent here and that have not ended."""
        return len(self._booked.running) + self._others.running

    @property
    def all_running(self) -> int:
        """The same, and those of which no gateway knows."""
        return len(self._booked.running) + self._others.running + self._reported.foreign.requests

    @property
    def kv_tokens(self) -> int:
        """Booked by this gateway and by others."""
        return self._booked.kv.tokens + self._others.kv_tokens

    @property
    def free_kv(self) -> float:
        """The share of its KV pool that nothing is known to take; below 0 where more was booked than there is."""
        return 1.0 - (self.kv_tokens + self._reported.foreign.kv_tokens) / self._capacity.kv_tokens

    @property
    def prefilling_tokens(self) -> int:
        """Prefill work that the instance has been given, by whichever gateway, and has not done."""
        return self._booked.prefill_tokens + self._others.prefilling_tokens

    @property
    def decode_load(self) -> float:
        """Tokens of context that are read for one token of all who run here, whoever sent them; a sequence more counts
        as some tokens more."""
        context_tokens = self._booked.context_tokens + self._others.kv_tokens + self._reported.foreign.kv_tokens
        return context_tokens + SEQUENCE_TOKENS * self.all_running

    def is_there(self, window_s: float) -> bool:
        """Whether the instance could begin with another prompt now. One that idles takes anything, whatever it
        reports."""
        if not self.running:
            return True
        if self._reported.stale or self.all_running >= self._capacity.max_running * self._service.ramp:
            return False
        if self._booked.shares.several:
            window_s *= SHARED_WINDOW
        tokens = self.prefilling_tokens
        return not tokens or tokens * self._service.speed.seconds_per_token < window_s

    def for_kv(self, request: Request, answer_tokens: int) -> bool:
        """Whether the request's KV cache would fit beside what runs, and what waits to be fetched. Without either, it
        takes anything."""
        booked = self._booked
        if not booked.running and not booked.lent:
            return True
        free = self._capacity.kv_tokens - self.kv_tokens - self._reported.foreign.kv_tokens
        need = request.prompt_tokens + answer_tokens
        if need <= free:
            return True
        block_tokens = booked.kv_block_tokens(request)
        shared = len(request.blocks) * block_tokens - booked.kv.missing_tokens(request.blocks, block_tokens)
        return need - shared <= free

    def for_tokens(self, prompt_tokens: int, tpot_slo_s: float) -> bool:
        """Whether all who run here and one more, with this objective, would have their tokens in time. An idle instance
        takes anything."""
        slo_s = self._booked.strictest_tpot_slo(tpot_slo_s)
        return not slo_s or not self._booked.running or self.tpot_with(prompt_tokens) <= slo_s

    def tpot_with(self, prompt_tokens: int) -> float:
        """Seconds per output token here if one more request with such a prompt ran; 0 where nothing is known yet."""
        return self._service.token_pace.gap_s(self.decode_load + prompt_tokens + SEQUENCE_TOKENS)

    def lag_s(self, prompt_tokens: int) -> float:
        """So much longer than elsewhere in the fleet each of its tokens would take here, in seconds; negative: less."""
        token_pace = self._service.token_pace
        lag = token_pace.lag
        return lag * token_pace.fleet_gap_s(self.decode_load + prompt_tokens + SEQUENCE_TOKENS) if lag else 0.0

    def crowding(self) -> Set[str]:
        """Tenants of which no more may start here at present."""
        return self._booked.shares.crowding(self.all_running, self.kv_tokens)

    def next_waiting(self, now: float, *, only_asked: bool = False) -> Attempt | None:
        """Who starts next, of those that wait and may. Half of the others' work is taken to come before. only_asked:
        the queue stays as it is."""
        ahead = self.prefilling_tokens + self._others.waiting_tokens // 2
        spt = self._service.speed.seconds_per_token
        waiting = self._booked.waiting
        return waiting.next(now, now + ahead * spt, spt, self.crowding(), only_asked=only_asked)

    def head_age_s(self, now: float) -> float | None:
        """See InstanceLoad."""
        attempt = self.next_waiting(now, only_asked=True)
        return self._age_s(attempt, now) if attempt is not None else None

    def is_others(self, attempt: Attempt, now: float) -> bool:
        """Whether the room there is belongs to a request that waits in another gateway and comes before this one."""
        return self._others.load is not None and self._others.come_first(self._age_s(attempt, now), now)

    def _age_s(self, attempt: Attempt, now: float) -> float | None:
        work_s = attempt.work_tokens * self._service.speed.seconds_per_token
        if now + work_s > attempt.deadline_s:
            return None
        return now - attempt.arrived_at - self.handicap * work_s
