"""How many tokens a prompt has: how many bytes of its text make one, and how many a picture or another medium is, both
learned from the `usage` that instances report."""

from collections.abc import Mapping

PRIOR_BYTES_PER_TOKEN = 4.0  # English text
MIN_BYTES_PER_TOKEN = 1.0
MAX_BYTES_PER_TOKEN = 16.0
PRIOR_TOKENS = 4096.0  # weight of the prior against what is observed, in tokens
MEMORY_TOKENS = 1_000_000.0  # older prompts fade beyond this many tokens
MAX_MODELS = 256  # names come from clients
MEDIA_TOKENS: Mapping[str, float] = {
    "image": 1024.0,
    "audio": 768.0,
    "video": 4096.0,
    "file": 2048.0,
}  # before one came
PRIOR_PARTS = 1.0  # weight of these against what is observed, in parts
MEMORY_PARTS = 100.0
NO_MEDIA: Mapping[str, int] = {}


class TokenRatio:
    """Ratio of sums, per model, with fading memory. Models never observed take the prior."""

    def __init__(self) -> None:
        self._models: dict[str, _Sums] = {}

    def prompt_tokens(self, model: str, text_bytes: int, media: Mapping[str, int] = NO_MEDIA) -> int:
        """Estimated length of a prompt in tokens, at least 1. media: how many parts of each kind there are, of
        MEDIA_TOKENS."""
        sums = self._models.get(model)
        tokens = text_bytes / (sums.bytes_per_token if sums else PRIOR_BYTES_PER_TOKEN)
        if media:
            tokens += sum(
                count * (sums.part_tokens(kind) if sums else MEDIA_TOKENS[kind]) for kind, count in media.items()
            )
        return int(tokens) or 1

    def observe(self, model: str, text_bytes: int, prompt_tokens: int, media: Mapping[str, int] = NO_MEDIA) -> None:
        """An instance counted `prompt_tokens` in a prompt of so much text and such media."""
        sums = self._models.get(model)
        if sums is None:
            if len(self._models) >= MAX_MODELS:
                return
            sums = self._models[model] = _Sums()
        if media:
            sums.observe_media(text_bytes, prompt_tokens, media)
        else:
            sums.observe_text(text_bytes, prompt_tokens)


class _Sums:
    __slots__ = ("bytes", "bytes_per_token", "media", "tokens")

    def __init__(self) -> None:
        self.bytes = PRIOR_TOKENS * PRIOR_BYTES_PER_TOKEN
        self.tokens = PRIOR_TOKENS
        self.bytes_per_token = PRIOR_BYTES_PER_TOKEN
        self.media: dict[str, tuple[float, float]] = {}  # by kind: tokens, and in how many parts

    def part_tokens(self, kind: str) -> float:
        """Of one part."""
        tokens, parts = self.media.get(kind, (MEDIA_TOKENS[kind], 1.0))
        return tokens / parts

    def observe_text(self, text_bytes: int, prompt_tokens: int) -> None:
        self.bytes += text_bytes
        self.tokens += prompt_tokens
        if self.tokens > MEMORY_TOKENS:
            keep = MEMORY_TOKENS / self.tokens
            self.bytes *= keep
            self.tokens *= keep
        self.bytes_per_token = min(max(self.bytes / self.tokens, MIN_BYTES_PER_TOKEN), MAX_BYTES_PER_TOKEN)

    def observe_media(self, text_bytes: int, prompt_tokens: int, media: Mapping[str, int]) -> None:
        """What is more than the text's tokens is the media's, each kind's as far as it was expected."""
        expected = {kind: count * self.part_tokens(kind) for kind, count in media.items()}
        told = max(0.0, prompt_tokens - text_bytes / self.bytes_per_token)
        share = told / (sum(expected.values()) or 1.0)
        for kind, count in media.items():
            tokens, parts = self.media.get(kind, (PRIOR_PARTS * MEDIA_TOKENS[kind], PRIOR_PARTS))
            tokens += max(count, expected[kind] * share)  # a part is a token at least
            parts += count
            keep = min(1.0, MEMORY_PARTS / parts)
            self.media[kind] = (tokens * keep, parts * keep)
