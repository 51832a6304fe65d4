"""What vLLM's KV events say of blocks beside their hashes (vllm/v1/core/block_pool.py, `cache_full_blocks`)."""

from dataclasses import dataclass

from xxhash import xxh32_intdigest

from dualmap.instances.kv_events.format import EngineStored
from dualmap.instances.simulated.media import TOKEN_BYTES
from dualmap.instances.simulated.token_ids import to_ids

GROUP = 0  # of the KV cache: there is one, as of a model whose layers are all alike


@dataclass(frozen=True, slots=True)
class BlockContent:
    """Of one prompt and its answer. hashes: of their full blocks. packed: both, four bytes a token. lora_name: None:
    the base model's. cache_salt: None: there is none."""

    hashes: tuple[int, ...]
    packed: bytes
    block_size: int
    lora_name: str | None = None
    cache_salt: str | None = None

    def stored(self, index: int, medium: str) -> EngineStored:
        """That the block of that index is there."""
        block_bytes = self.block_size * TOKEN_BYTES
        salts = [self.cache_salt] if index == 0 else []
        extra_keys = [key for key in (self.lora_name, *salts) if key]
        return EngineStored(
            [self.hashes[index]],
            self.hashes[index - 1] if index else None,
            to_ids(self.packed[index * block_bytes : (index + 1) * block_bytes]),
            self.block_size,
            lora_id=xxh32_intdigest(self.lora_name.encode()) if self.lora_name else None,  # vLLM counts adapters
            medium=medium,
            lora_name=self.lora_name,
            extra_keys=[extra_keys or None],
            group_idx=GROUP,
        )
