"""The finite pool of KV blocks with its prefix cache, after vLLM V1's block pool (vllm/v1/core/block_pool.py).

A block is held by the requests that use it (its reference count) or free. A free block keeps its content, and can be
hit, until it is given to somebody else: least recently freed first. A request's blocks are freed from its tail, so the
deep blocks of a prefix go before the shallow ones. Unlike in vLLM, of two equal blocks only the first computed can be
hit.

Behind the pool there may be a larger, slower tier in the host's memory, as with vLLM's KV offloading or LMCache: each
block is written through to it when it is computed, and read back when it is hit there.

What comes and goes is told as vLLM's KV events tell it, each block by itself.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from dualmap.instances.kv_events.format import EngineCleared, EngineEvent, EngineRemoved, EngineStored
from dualmap.instances.simulated.block_content import GROUP, BlockContent

GPU, CPU = "GPU", "CPU"


class Block:
    """block_hash: None until the block is full and computed, or if an equal block is cached already."""

    __slots__ = ("block_hash", "references")

    def __init__(self) -> None:
        self.block_hash: int | None = None
        self.references = 0


class BlockPool:
    """capacity: blocks in the pool; offload_capacity: in the tier behind it; offloaded: that tier, where several pools
    share one. events: what has changed, for who asked for it. Blocks come to be when they are first used: an idle pool
    costs no memory."""

    def __init__(
        self,
        capacity: int,
        offload_capacity: int = 0,
        offloaded: OrderedDict[int, None] | None = None,
        events: list[EngineEvent] | None = None,
    ) -> None:
        self.capacity = capacity
        self.events = events
        self._offload_capacity = offload_capacity
        # Hashes, least recently used first.
        self._offloaded: OrderedDict[int, None] = OrderedDict() if offloaded is None else offloaded
        self._unused = capacity
        self._free: OrderedDict[Block, None] = OrderedDict()  # least recently freed first
        self._cached: dict[int, Block] = {}

    @property
    def free_blocks(self) -> int:
        """Blocks that `allocate` can give, cached ones included."""
        return self._unused + len(self._free)

    def match(self, hashes: Iterable[int]) -> list[Block]:
        """The cached blocks of the longest known prefix. They stay as they are: `hold` them before anything else."""
        found: list[Block] = []
        cached = self._cached
        for block_hash in hashes:
            block = cached.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def match_offloaded(self, hashes: Sequence[int]) -> int:
        """How many of the leading hashes, those that follow what `match` found, can be read back from the tier behind
        the pool. They become its most recent ones."""
        if not self._offload_capacity:
            return 0
        offloaded = self._offloaded
        count = 0
        for block_hash in hashes:
            if block_hash not in offloaded:
                break
            count += 1
        for block_hash in reversed(hashes[:count]):
            offloaded.move_to_end(block_hash)
        return count

    def free_among(self, blocks: Iterable[Block]) -> int:
        """How many of the blocks are free: holding them takes so many away from what can be allocated."""
        return sum(block.references == 0 for block in blocks)

    def hold(self, blocks: Iterable[Block]) -> None:
        """Count one more user of each."""
        for block in blocks:
            if block.references == 0:
                del self._free[block]
            block.references += 1

    def allocate(self, count: int) -> list[Block] | None:
        """So many empty blocks, held once; None, and nothing changed, if there are not enough."""
        if count > self.free_blocks:
            return None
        fresh = min(count, self._unused)
        self._unused -= fresh
        blocks = [Block() for _ in range(fresh)]
        for _ in range(count - fresh):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            blocks.append(block)
        for block in blocks:
            block.references = 1
        return blocks

    def store(self, block: Block, block_hash: int, content: BlockContent | None = None, index: int = 0) -> None:
        """The block is full and computed: it can be hit from here on. content: of the prompt in which it is the block
        of that index; without it the event tells the hash alone, as of a tier that knows no more."""
        if self._cached.setdefault(block_hash, block) is block:
            block.block_hash = block_hash
            self._tell_stored(block_hash, GPU, content, index)
        if self._offload_capacity:
            if block_hash not in self._offloaded:
                self._tell_stored(block_hash, CPU, content, index)
            self._offloaded[block_hash] = None
            self._offloaded.move_to_end(block_hash)
            if len(self._offloaded) > self._offload_capacity:
                self._tell_removed(self._offloaded.popitem(last=False)[0], CPU)

    def release(self, blocks: Sequence[Block]) -> None:
        """Give back what `hold` or `allocate` gave, in the order of the prompt."""
        free = self._free
        offloaded = self._offloaded
        for block in reversed(blocks):
            if block.block_hash is not None and block.block_hash in offloaded:
                offloaded.move_to_end(block.block_hash)
            block.references -= 1
            if block.references == 0:
                free[block] = None

    def reset(self) -> bool:
        """Forget all cached blocks. False, and nothing changed, while any block is in use: as vLLM does."""
        if self.free_blocks != self.capacity:
            return False
        self._cached.clear()
        self._offloaded.clear()
        self._free.clear()
        self._unused = self.capacity
        if self.events is not None:
            self.events.append(EngineCleared())
        return True

    def _forget(self, block: Block) -> None:
        if block.block_hash is not None:
            del self._cached[block.block_hash]
            self._tell_removed(block.block_hash, GPU)
            block.block_hash = None

    def _tell_stored(self, block_hash: int, medium: str, content: BlockContent | None, index: int) -> None:
        if self.events is None:
            return
        if content is None:
            self.events.append(EngineStored([block_hash], None, [], 0, medium=medium, group_idx=GROUP))
        else:
            self.events.append(content.stored(index, medium))

    def _tell_removed(self, block_hash: int, medium: str) -> None:
        if self.events is not None:
            self.events.append(EngineRemoved([block_hash], medium, GROUP))
