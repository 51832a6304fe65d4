"""What the simulated accelerator and model can do: sizes, limits and the time a step takes."""

from dataclasses import dataclass, fields

OFFLOAD_S_PER_TOKEN = 2.3e-6  # of KV read back from the host's memory: 57 KB at 25 GB/s


class ProfileError(ValueError):
    """A value of the profile breaks its rule; the message names the field, the rule and the value."""


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """Names are those of vLLM's options where it has them. The defaults describe a 7B-class model on one accelerator.

    A step reads all weights once and computes its prompt tokens meanwhile, so the longer of the two counts; each
    decoding sequence and the context it reads come on top. Where reading and computing do not overlap, as on a CPU,
    step_base_s is 0 and what a step costs in any case is step_overhead_s.

    Raises ProfileError.
    """

    block_size: int = 16  # tokens a KV block; vLLM's default on GPUs
    kv_tokens: int = 740_000  # about 42 GB of KV at 57 KB a token (28 layers, 4 KV heads of 128, 16 bit)
    offload_tokens: int = 0  # KV kept in the host's memory behind the pool (vLLM's KV offloading, LMCache); 0: none
    offload_s_per_token: float = 0.0  # of KV read back from there; 0: that takes no time
    max_num_batched_tokens: int = 8192  # tokens computed in a step, all requests together; vLLM's default for serving
    max_num_seqs: int = 256  # requests running at once; vLLM's default on most accelerators
    max_model_len: int = 131_072  # prompt + answer of one request, in tokens: the context of the Qwen2.5 family
    prefill_s_per_token: float = 0.00016  # Qwen2.5-7B on a 910B4 (arXiv 2602.06502); attention included, on average
    step_base_s: float = 0.010  # reading 15 GB of weights once at 1.5 TB/s: no step is shorter
    decode_s_per_seq: float = 0.00002  # sampling and bookkeeping of one sequence
    decode_s_per_context_token: float = 4e-8  # reading 57 KB of KV at 1.5 TB/s
    attention_s_per_token_pair: float = 0.0  # quadratic prefill attention; 0: prefill_s_per_token has it, on average
    step_overhead_s: float = 0.0  # of any step, on top of the rest: scheduling, launching, sampling
    api_s: float = 0.0  # of a request outside the engine: reading it, handing it over; holds up no other request
    transfer_s_per_token: float = 4.6e-6  # of KV read from another instance: 57 KB at 100 Gbit/s
    transfer_latency_s: float = 0.005  # of such a prompt, whatever its length

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "offload_tokens" else 1
            if field.type is int and (not isinstance(value, int) or value < least):
                raise ProfileError(f"{field.name} must be a whole number of at least {least}, not {value!r}")
            if field.type is float and not 0 <= value < float("inf"):
                raise ProfileError(f"{field.name} must be a number of seconds of at least 0, not {value!r}")
        if self.kv_tokens < self.block_size:
            raise ProfileError(f"kv_tokens must be at least block_size ({self.block_size}), not {self.kv_tokens}")
        if self.step_base_s + self.step_overhead_s + self.prefill_s_per_token <= 0:
            raise ProfileError("step_base_s and prefill_s_per_token must not both be 0: time would stand still")
        if self.max_num_seqs > self.max_num_batched_tokens:
            raise ProfileError(
                f"max_num_seqs must be at most max_num_batched_tokens ({self.max_num_batched_tokens}), "
                f"so that every running request can decode in every step, not {self.max_num_seqs}"
            )
        if self.max_model_len > self.pool_blocks * self.block_size:
            raise ProfileError(
                f"max_model_len must be at most what kv_tokens holds ({self.pool_blocks * self.block_size}), "
                f"so that any one request can run, not {self.max_model_len}"
            )

    @property
    def pool_blocks(self) -> int:
        """Whole blocks in the KV pool."""
        return self.kv_tokens // self.block_size

    def step_s(self, prefill_tokens: int, decode_seqs: int, context_tokens: int, token_pairs: float = 0.0) -> float:
        """Seconds that one step takes.

        context_tokens: tokens of all decoding sequences together. token_pairs: query-key pairs of the prompt tokens,
        n * (c + n / 2) for n tokens after c computed ones.
        """
        compute_s = prefill_tokens * self.prefill_s_per_token + token_pairs * self.attention_s_per_token_pair
        decode_s = decode_seqs * self.decode_s_per_seq + context_tokens * self.decode_s_per_context_token
        return max(self.step_base_s, compute_s) + decode_s + self.step_overhead_s
