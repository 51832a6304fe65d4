"""LoRA adapters that were loaded while servers run: what each instance of a pool shall have, also one that joins later,
and who may change that at the moment."""

from collections.abc import Mapping
from dataclasses import KW_ONLY

from dualmap.scheduler.record import record

MAX_NAMES = 256  # of a pool; of those that shall not be there the oldest go first
LEASE_S = 180.0  # longer than any change takes; who has not ended it by then is gone


@record
class WantedAdapters:
    """version: grows with every change, also from one Fleet to the next; 0: nothing is known. loads: the request that
    loads it, by adapter; empty for one that was unloaded."""

    version: int = 0
    _: KW_ONLY
    loads: tuple[tuple[str, bytes], ...] = ()


NOTHING_WANTED = WantedAdapters()


class AdapterBoard:
    """All pools'. A change of a pool begins by taking its lease, and ends by giving it back."""

    def __init__(self, first_number: int) -> None:
        """first_number: above 0, and above all versions that the board before this one has given."""
        self._first = self._version = first_number
        self._wanted: dict[str, WantedAdapters] = {}  # by pool
        self._leases: dict[str, tuple[str, float]] = {}  # by pool: who changes it, and until when

    def begin(self, pool: str, holder: str, now: float) -> WantedAdapters | None:
        """What is wanted of the pool's instances; None while another holder changes it."""
        lease = self._leases.get(pool)
        if lease is not None and lease[0] != holder and now < lease[1]:
            return None
        self._leases[pool] = (holder, now + LEASE_S)
        return self._wanted.get(pool, NOTHING_WANTED)

    def want(self, pool: str, name: str, load: bytes) -> bool:
        """load: empty: it shall not be there. False where there would be too many."""
        loads = dict(self._wanted.get(pool, NOTHING_WANTED).loads)
        loads.pop(name, None)
        if len(loads) >= MAX_NAMES:
            unloaded = next((known for known, body in loads.items() if not body), None)
            if unloaded is None:
                return False
            del loads[unloaded]
        loads[name] = load
        self._set(pool, loads)
        return True

    def end(self, pool: str, holder: str) -> None:
        if (lease := self._leases.get(pool)) is not None and lease[0] == holder:
            del self._leases[pool]

    def adopt(self, pool: str, known: WantedAdapters) -> None:
        """What an instance was told by a Fleet before this one; what is wanted since comes first."""
        if 0 < known.version < self._first:
            now = dict(self._wanted.get(pool, NOTHING_WANTED).loads)
            merged = {**dict(known.loads), **now}
            if merged != now:
                self._set(pool, merged)

    def news(self, pool: str, known_version: int) -> WantedAdapters | None:
        """None where the version known is that of the pool."""
        wanted = self._wanted.get(pool)
        return None if wanted is None or wanted.version == known_version else wanted

    def exchange(self, known: Mapping[str, WantedAdapters]) -> dict[str, WantedAdapters]:
        """known: by pool, to one who remembers it for a board that comes after this one. What is wanted instead."""
        for pool, wanted in known.items():
            self.adopt(pool, wanted)
        return {
            pool: wanted
            for pool, wanted in self._wanted.items()
            if wanted.version != known.get(pool, NOTHING_WANTED).version
        }

    def asks(self, known_version: int) -> bool:
        """Whether the version known is of another Fleet, so that an instance has to say what it knows."""
        return 0 < known_version < self._first

    def _set(self, pool: str, loads: dict[str, bytes]) -> None:
        self._version += 1
        self._wanted[pool] = WantedAdapters(self._version, loads=tuple(loads.items()))
