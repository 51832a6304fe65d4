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
        self._sums: dict[str, tuple[float, float]] = {}  # model -> bytes, tokens
        self._bytes_per_token: dict[str, float] = {}

    def bytes_per_token(self, model: str) -> float:
        return self._bytes_per_token.get(model, PRIOR_BYTES_PER_TOKEN)

    def prompt_tokens(self, model: str, prompt_bytes: int) -> int:
        """Estimated length of a prompt in tokens, at least 1."""
        return int(prompt_bytes / self._bytes_per_token.get(model, PRIOR_BYTES_PER_TOKEN)) or 1

    def observe(self, model: str, prompt_bytes: int, prompt_tokens: int) -> None:
        """An instance counted `prompt_tokens` in a prompt of `prompt_bytes`."""
        if prompt_tokens <= 0 or prompt_bytes <= 0:
            return
        if model not in self._sums and len(self._sums) >= MAX_MODELS:
            return
        seen_bytes, seen_tokens = self._sums.get(model, (PRIOR_TOKENS * PRIOR_BYTES_PER_TOKEN, PRIOR_TOKENS))
        seen_bytes += prompt_bytes
        seen_tokens += prompt_tokens
        if seen_tokens > MEMORY_TOKENS:
            keep = MEMORY_TOKENS / seen_tokens
            seen_bytes *= keep
            seen_tokens *= keep
        self._sums[model] = (seen_bytes, seen_tokens)
        ratio = seen_bytes / seen_tokens
        self._bytes_per_token[model] = min(max(ratio, MIN_BYTES_PER_TOKEN), MAX_BYTES_PER_TOKEN)
