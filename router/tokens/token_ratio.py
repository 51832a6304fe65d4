"""How many bytes of a request body make a token, learned from the `usage` that instances report."""

PRIOR_BYTES_PER_TOKEN = 4.0  # English text in JSON
MIN_BYTES_PER_TOKEN = 1.0
MAX_BYTES_PER_TOKEN = 16.0  # a prompt that is an image in base64 must not make all text look short
PRIOR_TOKENS = 4096.0  # weight of the prior against what is observed, in tokens
MEMORY_TOKENS = 1_000_000.0  # older prompts fade beyond this many tokens
MAX_MODELS = 256  # names come from clients


class TokenRatio:
    """Ratio of sums, per model, with fading memory. Models never observed take the prior."""

    def __init__(self) -> None:
        self._models: dict[str, _Sums] = {}

    def prompt_tokens(self, model: str, prompt_bytes: int) -> int:
        """Estimated length of a prompt in tokens, at least 1."""
        sums = self._models.get(model)
        return int(prompt_bytes / (sums.bytes_per_token if sums else PRIOR_BYTES_PER_TOKEN)) or 1

    def observe(self, model: str, prompt_bytes: int, prompt_tokens: int) -> None:
        """An instance counted `prompt_tokens` in a prompt of `prompt_bytes`."""
        sums = self._models.get(model)
        if sums is None:
            if len(self._models) >= MAX_MODELS:
                return
            sums = self._models[model] = _Sums()
        sums.bytes += prompt_bytes
        sums.tokens += prompt_tokens
        if sums.tokens > MEMORY_TOKENS:
            keep = MEMORY_TOKENS / sums.tokens
            sums.bytes *= keep
            sums.tokens *= keep
        ratio = sums.bytes / sums.tokens
        sums.bytes_per_token = min(max(ratio, MIN_BYTES_PER_TOKEN), MAX_BYTES_PER_TOKEN)


class _Sums:
    __slots__ = ("bytes", "bytes_per_token", "tokens")

    def __init__(self) -> None:
        self.bytes = PRIOR_TOKENS * PRIOR_BYTES_PER_TOKEN
        self.tokens = PRIOR_TOKENS
        self.bytes_per_token = PRIOR_BYTES_PER_TOKEN
