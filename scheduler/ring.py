"""One seeded consistent-hash ring with weighted virtual nodes."""

from array import array
from bisect import bisect_left
from collections.abc import Set

from xxhash import xxh3_64_intdigest

SORT_ABOVE_CHANGES = 8  # changed instances at once
ARCS = 256
ARC_BITS = 56  # of a place, below those that number its arc


class HashRing:
    """Maps 64-bit keys to instance ids. A node's place depends on its id and the seed alone, so every gateway with the
    same members has the same ring, whatever the order they joined in."""

    def __init__(self, seed: int, virtual_nodes: int) -> None:
        self._seed = seed
        self._virtual_nodes = virtual_nodes
        self._nodes: dict[str, tuple[int, ...]] = {}  # instance id -> its points
        # The ring itself: points ascending, and who owns each; of instances that share a point the smaller id is first.
        self._points = array("Q")
        self._owners: list[str] = []
        self._starts = [0] * (ARCS + 1)  # of each arc of the ring, all equally long: where its first point stands
        self._placed: dict[str, tuple[int, ...]] = {}  # the nodes as they are on the ring
        self._changed: set[str] = set()  # nodes that are on the ring and should not be, or the other way round

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, instance_id: str, weight: float = 1.0) -> None:
        """Give the instance round(weight x virtual_nodes) points, at least one."""
        count = max(1, round(self._virtual_nodes * weight))
        self._nodes[instance_id] = tuple(
            xxh3_64_intdigest(f"{instance_id}#{i}".encode(), self._seed) for i in range(count)
        )
        self._changed.add(instance_id)

    def remove(self, instance_id: str) -> None:
        if self._nodes.pop(instance_id, None) is not None:
            self._changed.add(instance_id)

    def lookup(self, key: int, avoid: Set[str] = frozenset()) -> str | None:
        """The owner of the first point at or after the key, walking on past instances to avoid; None if all are
        avoided."""
        return self.owner(key.to_bytes(8, "little"), avoid, None)

    def owner(self, key: bytes, avoid: Set[str], other_than: str | None) -> str | None:
        """The same of a key in 8 bytes, least first. other_than: one more to avoid."""
        if self._changed:
            self._catch_up()
        owners = self._owners
        place = xxh3_64_intdigest(key, self._seed)
        starts, arc = self._starts, place >> ARC_BITS
        position = bisect_left(self._points, place, starts[arc], starts[arc + 1])
        if position == len(owners):
            if not owners:
                return None
            position = 0
        owner = owners[position]
        if owner not in avoid and owner != other_than:
            return owner
        nodes = self._nodes
        if len(nodes) <= len(avoid) + 1 and all(node in avoid or node == other_than for node in nodes):
            return None
        while owner in avoid or owner == other_than:
            position = position + 1 if position + 1 < len(owners) else 0
            owner = owners[position]
        return owner

    def place(self, key: int) -> int:
        """Where the key is on the ring, of 2**64 places."""
        return xxh3_64_intdigest(key.to_bytes(8, "little"), self._seed)

    def points(self) -> list[tuple[int, str]]:
        """Ascending, each with who owns the arc that ends there."""
        if self._changed:
            self._catch_up()
        return list(zip(self._points, self._owners, strict=True))

    def _catch_up(self) -> None:
        """Done at the first lookup after changes. One by one costs a memory move a point, all at once a sort."""
        if len(self._changed) > SORT_ABOVE_CHANGES:
            ring = sorted((point, instance_id) for instance_id, points in self._nodes.items() for point in points)
            self._points = array("Q", (point for point, _ in ring))
            self._owners = [instance_id for _, instance_id in ring]
        else:
            for instance_id in self._changed:
                for point in self._placed.get(instance_id, ()):
                    position = self._position(point, instance_id)
                    del self._points[position], self._owners[position]
                for point in self._nodes.get(instance_id, ()):
                    position = self._position(point, instance_id)
                    self._points.insert(position, point)
                    self._owners.insert(position, instance_id)
        self._placed = dict(self._nodes)
        self._changed.clear()
        self._starts = [bisect_left(self._points, arc << ARC_BITS) for arc in range(ARCS + 1)]

    def _position(self, point: int, instance_id: str) -> int:
        """Where the instance's point is, or belongs."""
        points, owners = self._points, self._owners
        position = bisect_left(points, point)
        while position < len(points) and points[position] == point and owners[position] < instance_id:
            position += 1
        return position
