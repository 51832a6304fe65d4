"""How an instance serves: how fast it computes and decodes, what share of its load it is given, when it answered."""

from math import exp, inf

from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.instance.pace import FleetPace, PrefillSpeed
from dualmap.scheduler.instance.token_pace import TokenPace
from dualmap.scheduler.instance_capacity import InstanceCapacity

WORK_MEMORY = 16.0  # prompts over which the mean work of one is taken
LEAST_RAMP = 0.1  # of the load of an instance in full service: what it starts with
# Time over which what a cache saved counts: prefixes that are not used any more are worth nothing.
SAVED_MEMORY_S = 300.0


class Service:
    """ramp: share of its load that it is given; below 1 after it has joined others at work.
    answered_at, usage_at: when something of an answer last came from it, and when one said what was cached, in seconds;
    usage_at is None until one did.
    mean_work_tokens: of the prompts sent here lately.
    """

    def __init__(self, capacity: InstanceCapacity, pace: FleetPace, slow_start_s: float) -> None:
        self.speed = PrefillSpeed(capacity.prefill_tokens_per_s, pace)
        self.token_pace = TokenPace(pace.tokens)
        self._tiers = pace.tiers
        self.transfers = pace.transfers
        self.ramp = 1.0
        self.answered_at = -inf
        self.usage_at: float | None = None
        self.mean_work_tokens = 0.0
        self._attention_tokens = capacity.attention_tokens
        self._saved_tokens = 0.0
        self._slow_start_s = slow_start_s
        self._joined_at = 0.0

    @property
    def has_answered(self) -> bool:
        return self.answered_at > -inf

    def work_tokens(self, prompt_tokens: int, cached: int) -> int:
        """Prefill work of a prompt. A token's attention to `attention_tokens` before it costs as much as all else of
        the token."""
        uncached = prompt_tokens - cached
        if not self._attention_tokens:
            return uncached
        return uncached + int(uncached * (prompt_tokens + cached) / (2 * self._attention_tokens))

    def start_slowly(self, now: float) -> None:
        self._joined_at = now
        if self._slow_start_s:
            self.ramp = LEAST_RAMP

    def ramp_up(self, now: float) -> None:
        self.ramp = min(1.0, max(LEAST_RAMP, (now - self._joined_at) / self._slow_start_s))

    def given(self, attempt: Attempt) -> None:
        """A prompt was sent here."""
        self._saved_tokens += attempt.cached_tokens
        self.mean_work_tokens += (attempt.work_tokens - self.mean_work_tokens) / WORK_MEMORY
        if attempt.loads is not None:
            attempt.loads_after(self.speed.computed_tokens)

    def prefilled(self, attempt: Attempt, work_tokens: int, now: float) -> None:
        """Its first output was seen. work_tokens: done here since the prompt before it."""
        self.speed.observe(work_tokens, now, attempt.loads)
        if attempt.loads is not None:
            waited_tokens = (now - attempt.dispatched_at) / self.speed.seconds_per_token
            self._tiers.learn(attempt.loads, waited_tokens, self.speed.computed_tokens - attempt.computed_before)

    @property
    def saved_tokens(self) -> int:
        """Prompt tokens found cached here in the last minutes: what its leaving would cost."""
        return int(self._saved_tokens)

    def fade(self, elapsed_s: float) -> None:
        """So much time has passed since the last call."""
        self._saved_tokens *= exp(-elapsed_s / SAVED_MEMORY_S)

    def answered(self, attempt: Attempt, output_tokens: int, load: float, now: float) -> float | None:
        """Its answer is complete: seconds per token after the first; None where that was not to be seen. load: what
        the instance has to read for each token at this moment."""
        self.answered_at = now
        if attempt.began_at is None or not attempt.request.streams or output_tokens < 2:
            return None
        gap_s = (now - attempt.began_at) / (output_tokens - 1)
        self.token_pace.observe(gap_s, (attempt.began_load + load) / 2, output_tokens - 1)
        return gap_s

    def learn_work(self, attempt: Attempt, prompt_tokens: int, cached_tokens: int, now: float) -> None:
        """The answer says how long its prompt was, and how much of it was cached."""
        self.usage_at = now
        # Else its work was not counted, or loading was part of it, which counts its own way.
        whole = attempt.loads is None and attempt.lease is None
        if whole and attempt.started and attempt.request.streams:
            self.speed.correct(self.work_tokens(prompt_tokens, cached_tokens) - attempt.work_tokens)
