"""Estimate of the time per output token (TPOT) at an instance, learned from answers that ended there.

A step of the engine takes a time of its own and reads the KV cache of all who decode, and every now and then it
computes a prompt beside: seconds per token = a + b x load, fitted to the answers of all instances by least squares with
fading memory; how an instance compares with the others is learned apart, as a ratio.
"""

MEMORY_TOKENS = 100_000.0  # of answers: a few hundred of them
MAX_TOKENS = 256  # of one answer that count: a long one is one observation, not ten
ENOUGH_TOKENS = 1000.0  # seen before anything is said
PRIOR_TOKENS = 5000.0  # weight of the fleet's pace against what was seen of an instance
LIKE_OTHERS = 1.25  # an instance that takes up to so much longer or less than the fleet is like the others
SEQUENCE_TOKENS = 500  # of context that cost a step as much as one sequence more: 20 us against 57 KB at 1.5 TB/s


class FleetTokenPace:
    """Loads are in tokens of context that decoding reads (Room.decode_load)."""

    def __init__(self) -> None:
        self._weight = self._load = self._gap = self._load_2 = self._load_gap = 0.0
        self.base_s = 0.0  # seconds per token of a request alone
        self.slope_s = 0.0  # more for each token of load

    @property
    def is_known(self) -> bool:
        return self._weight >= ENOUGH_TOKENS

    def observe(self, gap_s: float, load: float, tokens: int) -> None:
        """An answer of so many tokens had its tokens so far apart, on average, under that load."""
        keep = min(1.0, MEMORY_TOKENS / (self._weight + tokens))
        self._weight = (self._weight + tokens) * keep
        self._load = (self._load + tokens * load) * keep
        self._gap = (self._gap + tokens * gap_s) * keep
        self._load_2 = (self._load_2 + tokens * load * load) * keep
        self._load_gap = (self._load_gap + tokens * load * gap_s) * keep
        mean_load, mean_gap_s = self._load / self._weight, self._gap / self._weight
        variance = self._load_2 / self._weight - mean_load * mean_load
        covariance = self._load_gap / self._weight - mean_load * mean_gap_s
        slope_s = covariance / variance if variance > 1.0 else 0.0
        # Neither may be negative: more load is never faster, and no load is not free.
        self.slope_s = min(max(0.0, slope_s), mean_gap_s / mean_load if mean_load else 0.0)
        self.base_s = mean_gap_s - self.slope_s * mean_load

    def gap_s(self, load: float) -> float:
        """Seconds per token; 0 where nothing is known yet."""
        return self.base_s + self.slope_s * load if self.is_known else 0.0


class TokenPace:
    """Of one instance."""

    def __init__(self, fleet: FleetTokenPace) -> None:
        self._fleet = fleet
        self._seen = self._expected = 0.0
        self._ratio = 1.0

    def observe(self, gap_s: float, load: float, tokens: int) -> None:
        """As FleetTokenPace.observe."""
        tokens = min(tokens, MAX_TOKENS)
        expected_s = self._fleet.gap_s(load)
        self._fleet.observe(gap_s, load, tokens)
        if expected_s:
            keep = min(1.0, MEMORY_TOKENS / (self._expected + tokens))
            self._seen = (self._seen + tokens * gap_s / expected_s) * keep
            self._expected = (self._expected + tokens) * keep
            self._ratio = (PRIOR_TOKENS + self._seen) / (PRIOR_TOKENS + self._expected)

    @property
    def lag(self) -> float:
        """By what share of the fleet's time per token the instance takes longer, negative: less; 0: like the others."""
        ratio = self._ratio
        return 0.0 if 1 / LIKE_OTHERS < ratio < LIKE_OTHERS else ratio - 1.0

    def gap_s(self, load: float) -> float:
        """Seconds per token under that load; 0 where nothing is known yet."""
        return self._ratio * self._fleet.gap_s(load)

    def fleet_gap_s(self, load: float) -> float:
        """The same of the fleet."""
        return self._fleet.gap_s(load)
