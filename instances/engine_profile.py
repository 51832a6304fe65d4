"""What a simulated engine can do, and how long its steps take."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """The defaults describe a 7B-class model on one accelerator. Raises ValueError with field, rule and value.

    block_size: tokens of a KV cache block (vLLM's default).
    kv_tokens: size of the KV cache pool, in tokens.
    max_num_batched_tokens: tokens computed in one step, prefill and decode together.
    max_num_seqs: requests running at once.
    max_model_len: longest prompt and answer together, in tokens.
    prefill_s_per_token: arXiv 2602.06502, section 4.1 (Qwen2.5-7B).
    step_s: fixed cost of a step: kernel launches, scheduling, reading the weights once.
    decode_s_per_seq: cost in a step of each sequence that decodes: sampling and its share of the matrix products.
    decode_s_per_context_token: reading its KV cache: 57 kB a token (28 layers, 4 KV heads of 128, bf16) at 1.5 TB/s.
    """

    block_size: int = 16
    kv_tokens: int = 740_000
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    max_model_len: int = 131_072
    prefill_s_per_token: float = 0.00016
    step_s: float = 0.010
    decode_s_per_seq: float = 0.00003
    decode_s_per_context_token: float = 3.8e-8

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("decode_") or field.name == "step_s":
                if not value >= 0:
                    raise ValueError(f"{field.name} must be at least 0, not {value!r}")
            elif not value > 0:
                raise ValueError(f"{field.name} must be greater than 0, not {value!r}")
        if self.kv_tokens < self.block_size:
            raise ValueError(f"kv_tokens must be at least block_size={self.block_size}, not {self.kv_tokens}")

    @property
    def total_blocks(self) -> int:
        return self.kv_tokens // self.block_size

    def duration_s(self, prefill_tokens: int, decode_seqs: int, context_tokens: int) -> float:
        """Seconds a step takes that computes so many prompt tokens and one token each for so many sequences, which
        together have so many tokens of context."""
        return (
            self.step_s
            + prefill_tokens * self.prefill_s_per_token
            + decode_seqs * self.decode_s_per_seq
            + context_tokens * self.decode_s_per_context_token
        )
