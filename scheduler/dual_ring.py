"""Two independent rings: each key has two distinct candidates (arXiv 2602.06502, section 3.1)."""

from collections.abc import Set

from dualmap.scheduler.ring import HashRing

FIRST_SEED = 0x6475616C  # "dual"
SECOND_SEED = 0x6D617070  # "mapp"


class DualRing:
    def __init__(self, virtual_nodes: int, *, dual: bool = True) -> None:
        """dual=False leaves one ring and one candidate."""
        self._first = HashRing(FIRST_SEED, virtual_nodes)
        self._second = HashRing(SECOND_SEED, virtual_nodes)
        self._dual = dual

    def __len__(self) -> int:
        return len(self._first)

    @property
    def rings(self) -> tuple[HashRing, ...]:
        """Those in use, the first one first."""
        return (self._first, self._second) if self._dual else (self._first,)

    def add(self, instance_id: str, weight: float = 1.0) -> None:
        self._first.add(instance_id, weight)
        self._second.add(instance_id, weight)

    def remove(self, instance_id: str) -> None:
        self._first.remove(instance_id)
        self._second.remove(instance_id)

    def candidates(self, key: int, avoid: Set[str] = frozenset(), unable: Set[str] = frozenset()) -> tuple[str, ...]:
        """The key's instances, that of the first ring first: two, or fewer where no more are left. Where both rings
        name the same instance, the second candidate is the next distinct one on the second ring. Where one is
        avoided its stand-in comes last, so that at a tie the key stays with the candidate it had. unable: of those to
        avoid, who is never the key's candidate: it is as if they were not on the rings."""
        in_bytes = key.to_bytes(8, "little")
        first = self._first.owner(in_bytes, avoid, None)
        if first is None:
            return ()
        if not self._dual:
            return (first,)
        second = self._second.owner(in_bytes, avoid, first)
        if second is None:
            return (first,)
        if avoid and len(avoid) > len(unable) and first not in self.candidates(key, unable, unable):
            return second, first
        return first, second
