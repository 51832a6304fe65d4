"""One seeded consistent-hash ring with weighted virtual nodes."""

from array import array
from bisect import bisect_left
from collections.abc import Set

from xxhash import xxh3_64_intdigest


class HashRing:
    """Maps 64-bit keys to instance ids. A node's place depends on its id and the seed alone, so every gateway with the
    same members has the same ring, whatever the order they joined in."""

    def __init__(self, seed: int, virtual_nodes: int) -> None:
        self._seed = seed
        self._virtual_nodes = virtual_nodes
        self._nodes: dict[str, tuple[int, ...]] = {}  # instance id -> its points
        self._points = array("Q")  # all points, ascending
        self._owners: list[str] = []  # owner of each point
        self._stale = False

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, instance_id: str, weight: float = 1.0) -> None:
        """Give the instance round(weight x virtual_nodes) points, at least one."""
        count = max(1, round(self._virtual_nodes * weight))
        self._nodes[instance_id] = tuple(
            xxh3_64_intdigest(f"{instance_id}#{i}".encode(), self._seed) for i in range(count)
        )
        self._stale = True

    def remove(self, instance_id: str) -> None:
        if self._nodes.pop(instance_id, None) is not None:
            self._stale = True

    def lookup(self, key: int, avoid: Set[str] = frozenset()) -> str | None:
        """The owner of the first point at or after the key, walking on past instances to avoid; None if all are
        avoided."""
        if self._stale:
            self._rebuild()
        owners = self._owners
        position = bisect_left(self._points, xxh3_64_intdigest(key.to_bytes(8, "little"), self._seed))
        if position == len(owners):
            if not owners:
                return None
            position = 0
        owner = owners[position]
        if owner not in avoid:
            return owner
        if self._nodes.keys() <= avoid:
            return None
        while owners[position] in avoid:
            position = position + 1 if position + 1 < len(owners) else 0
        return owners[position]

    def _rebuild(self) -> None:
        """Done at the first lookup after a change, so that many changes at once cost one sort. Where two instances
        share a point, the smaller id has it."""
        owner_of: dict[int, str] = {}
        for instance_id in sorted(self._nodes):
            for point in self._nodes[instance_id]:
                owner_of.setdefault(point, instance_id)
        self._points = array("Q", sorted(owner_of))
        self._owners = [owner_of[point] for point in self._points]
        self._stale = False
