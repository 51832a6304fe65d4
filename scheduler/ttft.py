"""Estimate of the time to first token at an instance, calibrated by the first tokens observed.

TTFT = tokens that must be computed before the first token x seconds per token (arXiv 2602.06502, section 3.3). The
tokens are those of prompts dispatched and not yet prefilled, of prompts waiting for the instance, and of this
prompt, as far as not cached.
"""

from dualmap.scheduler.record import record
from dualmap.scheduler.request import Request
from dualmap.scheduler.token_pace import FleetTokenPace

PRIOR_TOKENS = 65_536.0  # weight of the configured speed, and of the fleet's, against observations
MEMORY_TOKENS = 262_144.0  # observations older than this many tokens fade: a few dozen long prompts
MAX_DRIFT = 8.0  # an observation counts within this factor of the configured speed: one hiccup must not outweigh it
MIN_OBSERVED_TOKENS = 2048  # below this a step's fixed cost, not the tokens, is what was measured


class FleetPace:
    """How the instances compare with what was configured, all together: the ratio of observed to configured seconds.
    Where nothing of an instance was seen yet, it is taken to be as the others are. tokens: how fast they decode."""

    def __init__(self) -> None:
        self.ratio = 1.0
        self.tokens = FleetTokenPace()
        self._observed = PRIOR_TOKENS
        self._configured = PRIOR_TOKENS

    def observe(self, tokens: int, ratio: float) -> None:
        """So many tokens took `ratio` times what was configured."""
        keep = min(1.0, MEMORY_TOKENS / (self._configured + tokens))
        self._observed = (self._observed + tokens * ratio) * keep
        self._configured = (self._configured + tokens) * keep
        self.ratio = self._observed / self._configured


class PrefillSpeed:
    """Seconds per token of prefill work of one instance: the ratio of sums of observed seconds and tokens, with fading
    memory. Observed while the instance works, decoding beside it included: what that costs is learned with the rest.
    """

    def __init__(self, prefill_tokens_per_s: float, fleet: FleetPace) -> None:
        self._configured = 1.0 / prefill_tokens_per_s
        self._fleet = fleet
        self._guess_tokens = PRIOR_TOKENS  # weight of the fleet's pace; fades as the instance is observed
        self._tokens = 0.0
        self._seconds = 0.0
        self._since_s = 0.0
        self._seen_tokens = 0
        self._seen_s = 0.0
        self.seconds_per_token = self._configured
        self.refresh()

    @property
    def is_known(self) -> bool:
        """It has been observed more than the fleet's pace weighs."""
        return self._tokens > PRIOR_TOKENS

    def refresh(self) -> None:
        """Take up what was learned of the others meanwhile."""
        guess_s = self._guess_tokens * self._configured * self._fleet.ratio
        self.seconds_per_token = (guess_s + self._seconds) / (self._guess_tokens + self._tokens)

    def starts(self, now: float) -> None:
        """The instance had no prefill to do until now."""
        self._since_s = now

    def observe(self, tokens: int, now: float) -> None:
        """A prompt with so much work was computed. Prompts are computed one after the other, so the time since the
        one before is its own; those that end in the same step count together."""
        self._seen_tokens += tokens
        self._seen_s += now - self._since_s
        self._since_s = now
        if self._seen_tokens < MIN_OBSERVED_TOKENS:
            return
        tokens = self._seen_tokens
        configured_s = tokens * self._configured
        seconds = min(max(self._seen_s, configured_s / MAX_DRIFT), configured_s * MAX_DRIFT)
        self._seen_tokens = 0
        self._seen_s = 0.0
        keep = min(1.0, MEMORY_TOKENS / (self._guess_tokens + self._tokens + tokens))
        self._guess_tokens *= keep
        self._tokens = (self._tokens + tokens) * keep
        self._seconds = (self._seconds + seconds) * keep
        self._fleet.observe(tokens, seconds / configured_s)
        self.refresh()

    def correct(self, tokens: int) -> None:
        """A prompt observed before was so much more work than was thought, or less if below 0."""
        self._seen_tokens += tokens


@record
class TtftEstimate:
    """work_tokens: prefill work of this prompt (InstanceView.work_tokens). prefill_s: to compute its uncached tokens;
    total_s: the same and all that is ahead of it.
    running: requests dispatched to the instance and not ended: they slow each other's answers.
    held_tokens: cached_tokens, and not less than what is common to a hot prefix, which soon is everywhere. shared_s: of
    prefill_s, what computes such a prefix.
    tpot_s: seconds per output token there once this request decodes, too; tpot_slo_s: the strictest objective of those
    that would; 0 where there is none.
    """

    instance_id: str
    cached_tokens: int
    uncached_tokens: int
    work_tokens: int
    running: int
    prefill_s: float
    total_s: float
    held_tokens: int
    shared_s: float = 0.0
    tpot_s: float = 0.0
    tpot_slo_s: float = 0.0


def cached_tokens(request: Request, cached_blocks: int, block_tokens: int) -> int:
    """Tokens of the prompt that need no computation; the last one is always computed, since it yields the first
    output. block_tokens: where the request does not say."""
    tokens = cached_blocks * (request.block_tokens or block_tokens)
    return tokens if tokens < request.prompt_tokens else max(0, request.prompt_tokens - 1)
