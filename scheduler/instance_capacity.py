"""What an instance can do."""

from dataclasses import KW_ONLY, dataclass

from dualmap.scheduler.errors import ConfigError


@dataclass(frozen=True, slots=True)
class InstanceCapacity:
    """What an instance can do, as configured or measured.

    prefill_tokens_per_s: prompt tokens computed each second when nothing else runs.
    kv_tokens: size of its KV cache pool, in tokens.
    cache_tokens: tokens of prefixes it can keep, where a tier behind the pool keeps more of them; 0: kv_tokens.
    max_running: requests it runs at once (vLLM: max_num_seqs).
    attention_tokens: length of context at which a token's attention costs as much as all else of it; 0: the cost of a
        token is taken to be the same at any length.
    max_adapters: LoRA adapters it has loaded at once (vLLM: max_loras).
    weight: share of the rings, relative to the other instances; None: by speed, where the other instances' is known.
    The defaults describe a 7B-class model on one accelerator (arXiv 2602.06502: 0.00016 s a prefill token).
    """

    prefill_tokens_per_s: float = 6250.0
    kv_tokens: int = 740_000
    max_running: int = 256
    _: KW_ONLY
    weight: float | None = None
    cache_tokens: int = 0
    attention_tokens: int = 0
    max_adapters: int = 1

    def __post_init__(self) -> None:
        for name in ("prefill_tokens_per_s", "kv_tokens", "max_running", "max_adapters", "weight"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be greater than 0, not {getattr(self, name)!r}")
        for name in ("cache_tokens", "attention_tokens"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)!r}")

    @property
    def ring_weight(self) -> float:
        return 1.0 if self.weight is None else self.weight

    def cache_blocks(self, block_tokens: int) -> int:
        """Whole blocks of prefixes it can keep."""
        return (self.cache_tokens or self.kv_tokens) // block_tokens
