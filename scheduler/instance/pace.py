"""Seconds per token of prefill work: what was configured, corrected by the first tokens observed."""

from dualmap.scheduler.instance.token_pace import FleetTokenPace
from dualmap.scheduler.instance.transfer_pace import TransferPace
from dualmap.scheduler.tiers import Loads, Tiers

PRIOR_TOKENS = 65_536.0  # weight of the configured speed, and of the fleet's, against observations
MEMORY_TOKENS = 262_144.0  # observations older than this many tokens fade: a few dozen long prompts
MAX_DRIFT = 8.0  # an observation counts within this factor of the configured speed: one hiccup must not outweigh it
MIN_OBSERVED_TOKENS = 2048  # below this a step's fixed cost, not the tokens, is what was measured
SAME_STEP_S = 0.002  # first tokens of one step are seen within this
FEW_LOADED = 0.1  # of what was computed: so much loading says nothing of the loading


class FleetPace:
    """How the instances compare with what was configured, all together: the ratio of observed to configured seconds.
    Where nothing of an instance was seen yet, it is taken to be as the others are. tokens: how fast they decode.
    tiers: behind their pools. transfers: how fast they fetch prompts."""

    def __init__(self, tiers: Tiers | None = None) -> None:
        self.ratio = 1.0
        self.tokens = FleetTokenPace()
        self.tiers = tiers or Tiers()
        self.transfers = TransferPace()
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
    computed_tokens: work of all prompts that were observed, without what they loaded.
    since_s: when the last prompt was done, or else when the instance began to work.
    """

    def __init__(self, prefill_tokens_per_s: float, fleet: FleetPace) -> None:
        self._configured = 1.0 / prefill_tokens_per_s
        self._fleet = fleet
        self._guess_tokens = PRIOR_TOKENS  # weight of the fleet's pace; fades as the instance is observed
        self._tokens = 0.0
        self._seconds = 0.0
        self.since_s = 0.0
        self._seen_tokens = 0
        self._seen_s = 0.0
        self._loads: list[Loads] = []  # of what was seen
        self.computed_tokens = 0
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
        self.since_s = now

    def observe(self, tokens: int, now: float, loads: Loads | None = None) -> None:
        """A prompt with so much work was computed. Prompts are computed one after the other, so the time since the
        one before is its own; those that end in the same step count together. loads: part of its work."""
        if self._loads and now - self.since_s > SAME_STEP_S:
            self._judge_loads()
        self._seen_tokens += tokens
        self._seen_s += now - self.since_s
        self.since_s = now
        self.computed_tokens += tokens
        if loads is not None:
            self.computed_tokens -= loads.work_tokens
            self._loads.append(loads)
        if self._loads or self._seen_tokens < MIN_OBSERVED_TOKENS:
            return
        self._learn_pace()

    def _judge_loads(self) -> None:
        """What was seen until now loaded from tiers, too: it tells the pace only where that was little."""
        loaded = sum([loads.tier_tokens for loads in self._loads])
        computed = self._seen_tokens - sum([loads.work_tokens for loads in self._loads])
        self._loads = []
        if loaded > FEW_LOADED * computed:
            self._seen_tokens = 0
            self._seen_s = 0.0
        elif self._seen_tokens >= MIN_OBSERVED_TOKENS:
            self._learn_pace()

    def _learn_pace(self) -> None:
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
