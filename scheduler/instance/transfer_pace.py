"""How long it takes to fetch a computed prompt from the instance that keeps it, learned from decode legs."""

# What is taken to be so at first: a round trip and a step of the engine, and 128 KB a token at 25 GB/s.
FIRST_BASE_S = 0.015
FIRST_SECONDS_PER_TOKEN = 5e-6
FIRST_WEIGHT = 8.0  # legs that the first guess counts as, at no token and at so many each
FIRST_TOKENS = 8192.0
MEMORY_LEGS = 256.0  # older ones fade
MAX_DRIFT = 4.0  # a leg counts within this factor of what was expected: one that hung must not outweigh all others


class TransferPace:
    """seconds = base_s + tokens x seconds_per_token, fitted to the legs by least squares with fading memory."""

    def __init__(self) -> None:
        self.base_s = FIRST_BASE_S
        self.seconds_per_token = FIRST_SECONDS_PER_TOKEN
        at_most_s = FIRST_BASE_S + FIRST_SECONDS_PER_TOKEN * FIRST_TOKENS
        self._weight = 2 * FIRST_WEIGHT
        self._tokens = FIRST_WEIGHT * FIRST_TOKENS
        self._seconds = FIRST_WEIGHT * (FIRST_BASE_S + at_most_s)
        self._tokens_2 = FIRST_WEIGHT * FIRST_TOKENS * FIRST_TOKENS
        self._tokens_seconds = FIRST_WEIGHT * FIRST_TOKENS * at_most_s

    def seconds(self, tokens: int) -> float:
        """From the dispatch of a leg that fetches so many tokens to its first token, where nothing else is to do."""
        return self.base_s + tokens * self.seconds_per_token

    def observe(self, tokens: int, took_s: float) -> None:
        """A leg that had so many tokens to fetch took so long."""
        expected_s = self.seconds(tokens)
        seconds = min(max(took_s, expected_s / MAX_DRIFT), expected_s * MAX_DRIFT)
        keep = min(1.0, MEMORY_LEGS / (self._weight + 1.0))
        self._weight = (self._weight + 1.0) * keep
        self._tokens = (self._tokens + tokens) * keep
        self._seconds = (self._seconds + seconds) * keep
        self._tokens_2 = (self._tokens_2 + float(tokens) * tokens) * keep
        self._tokens_seconds = (self._tokens_seconds + tokens * seconds) * keep
        mean_tokens, mean_s = self._tokens / self._weight, self._seconds / self._weight
        variance = self._tokens_2 / self._weight - mean_tokens * mean_tokens
        covariance = self._tokens_seconds / self._weight - mean_tokens * mean_s
        slope_s = covariance / variance if variance > 1.0 else 0.0
        # Neither is negative: more tokens are never faster, and none are not free.
        self.seconds_per_token = min(max(0.0, slope_s), mean_s / mean_tokens if mean_tokens else 0.0)
        self.base_s = max(0.0, mean_s - self.seconds_per_token * mean_tokens)
