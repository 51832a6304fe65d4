"""Which cell of a large fleet serves a request: the first pair of rings, in front of the pair within each cell.

A cell is a deployment of its own, with gateways, a core and a Fleet. In front of the cells nothing is known of
instances: of each cell a summary that is some time old, and which prefixes it was given. The rule is that of
DualMap, one level up: the prefix names two candidates, what is known of them picks one, and a conversation that left
them is followed.
"""

from collections import deque
from collections.abc import Set
from dataclasses import KW_ONLY
from enum import StrEnum

from xxhash import xxh3_64_intdigest

from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.dual_ring import DualRing
from dualmap.scheduler.given_prefixes import GivenPrefixes
from dualmap.scheduler.prefix_key import PAIR, SAMPLE_BLOCKS, PrefixKeys
from dualmap.scheduler.record import record

CELL_SEED = 0x63656C6C  # "cell": keys of one cell must not be neighbours on the rings within it
POINTS_PER_INSTANCE = 4  # on each ring: with 64 instances a cell has 256 points, about 6 % spread of arc length
MARKS_PER_INSTANCE = 512  # of about 5 for a prompt of 24 blocks; a mark takes some 100 bytes
SILENT_S = 3.0  # a cell that has not reported for so long is avoided, unless all are silent
REFUSED_S = 1.0  # a cell that refused a request is left alone so long
USED_S = 1.0  # a cell with all of its room in use is as good as an empty one with so much more backlog
BLOCK_WORTH_S = 0.16  # of waiting, a block that need not be computed again: twice the time to compute 512 tokens


@record
class CellLoad:
    """What a cell says of itself. instances: those that are ready. backlog_s: seconds of prefill that wait at one, on
    average. used: share of the room that is in use, 0 to 1. request_s: prefill of a mean request there. full: it would
    refuse a request. age_s: since it was so."""

    instances: int
    backlog_s: float = 0.0
    used: float = 0.0
    _: KW_ONLY
    request_s: float = 0.0
    full: bool = False
    age_s: float = 0.0


class CellReason(StrEnum):
    """Why a request goes to its cell. Values are metric labels."""

    WARM = "warm"  # it was given the longest known prefix
    SWITCHED = "switched"  # another was; to wait there would cost more than to compute it again, or it takes nothing
    BALANCED = "balanced"  # nobody was: the less loaded of the two
    ONLY_ONE = "only_one"  # no other cell takes requests


@record
class CellChoice:
    """given_blocks: leading blocks of the prompt that the cell is known to have been given."""

    cell: str
    reason: CellReason
    candidates: tuple[str, ...]
    _: KW_ONLY
    given_blocks: int = 0


class _Cell:
    """sent: when it was given requests since it was heard of; the oldest first."""

    __slots__ = ("heard_at", "load", "name", "refused_until", "sent")

    def __init__(self, name: str, load: CellLoad, now: float) -> None:
        self.name = name
        self.load = load
        self.heard_at = now
        self.refused_until = now
        self.sent: deque[float] = deque()

    def load_s(self, now: float) -> float:
        """As it is by now: what it was given since has come, and what it has worked off is gone."""
        load = self.load
        backlog_s = load.backlog_s + len(self.sent) * load.request_s / max(1, load.instances) - (now - self.heard_at)
        return max(0.0, backlog_s) + USED_S * load.used

    def hear(self, load: CellLoad, now: float) -> None:
        self.load, self.heard_at = load, now - load.age_s
        self._forget_sent(self.heard_at)

    def send(self, now: float) -> None:
        self.sent.append(now)
        self._forget_sent(now - SILENT_S)

    def _forget_sent(self, until: float) -> None:
        while self.sent and self.sent[0] <= until:
            self.sent.popleft()

    def takes_requests(self, now: float) -> bool:
        return not self.load.full and now >= self.refused_until and now - self.heard_at <= SILENT_S


class CellRouter:
    """`now` is in seconds of any monotonic clock, the same one at each call. A decision costs O(blocks), however many
    cells and instances there are."""

    def __init__(self, *, key_blocks: int = 1, max_key_blocks: int = SAMPLE_BLOCKS) -> None:
        self._rings = DualRing(POINTS_PER_INSTANCE)
        self._keys = PrefixKeys(key_blocks, max_key_blocks)
        self._cells: dict[str, _Cell] = {}
        self._weights: dict[str, int] = {}  # cell -> instances that its share of the rings stands for
        self._given: GivenPrefixes[_Cell] = GivenPrefixes(MARKS_PER_INSTANCE)

    def __len__(self) -> int:
        return len(self._cells)

    def __contains__(self, name: str) -> bool:
        return name in self._cells

    @property
    def remembered_marks(self) -> int:
        return len(self._given)

    def join(self, name: str, instances: int, now: float) -> None:
        """The cell takes requests, with empty caches. One that is there already leaves first."""
        self.leave(name)
        self._cells[name] = _Cell(name, CellLoad(instances), now)
        self._weigh(name, instances)

    def leave(self, name: str) -> None:
        """The cell is gone, and what it was given."""
        if self._cells.pop(name, None) is not None:
            del self._weights[name]
            self._rings.remove(name)
            self._resize()

    def report(self, name: str, load: CellLoad, now: float) -> None:
        """The cell said how it does. One that has lost its instances keeps its share of the rings."""
        cell = self._cells.get(name)
        if cell is None or now - load.age_s < cell.heard_at:
            return
        cell.hear(load, now)
        if load.instances and load.instances != self._weights[name]:
            self._weigh(name, load.instances)

    def refused(self, name: str, now: float) -> None:
        """The cell could not take a request, or could not be reached."""
        if name in self._cells:
            self._cells[name].refused_until = now + REFUSED_S

    def heard_given(self, blocks: tuple[int, ...], name: str) -> None:
        """Another front gateway gave the prompt to the cell."""
        if blocks and name in self._cells:
            self._given.give(blocks, self._keys.observe(blocks).depth, self._cells[name])

    def choose(
        self, blocks: tuple[int, ...], request_id: str, now: float, tried: Set[str] = frozenset()
    ) -> CellChoice | None:
        """The cell for the request, outside `tried`; None if there is none. What the cell is given is remembered."""
        depth = draw = 0
        if blocks:
            found = self._keys.observe(blocks)
            key, depth, pairs = found.key, found.depth, found.homes // PAIR
            if pairs > 1:
                draw = xxh3_64_intdigest(request_id.encode()) % pairs
        else:
            key, pairs = xxh3_64_intdigest(request_id.encode()), 1
        place = xxh3_64_intdigest(key.to_bytes(8, "little"), CELL_SEED + draw)
        names = self._candidates(place, tried, now)
        if not names:
            return None
        home, given = self._home(blocks, depth)
        if home is not None and home.name not in names and self._follows(home, given, depth, pairs, tried, now):
            names = (*names, home.name)
        chosen = min(names, key=lambda name: self._cost_s(name, home, given, now))  # a tie goes to the first candidate
        cell = self._cells[chosen]
        self._given.give(blocks, depth, cell)
        cell.send(now)
        if len(names) == 1:
            reason = CellReason.ONLY_ONE
        elif home is None:
            reason = CellReason.BALANCED
        else:
            reason = CellReason.WARM if cell is home else CellReason.SWITCHED
        return CellChoice(chosen, reason, names, given_blocks=given if cell is home else 0)

    def _cost_s(self, name: str, home: _Cell | None, given: int, now: float) -> float:
        """What is waited for there, less what is saved there."""
        cell = self._cells[name]
        return cell.load_s(now) - (BLOCK_WORTH_S * given if cell is home else 0.0)

    def _candidates(self, place: int, tried: Set[str], now: float) -> tuple[str, ...]:
        """Two that take requests; where no cell does, two of all."""
        names = self._rings.candidates(place, tried)
        if all(self._cells[name].takes_requests(now) for name in names):
            return names
        avoid = {name for name, cell in self._cells.items() if name in tried or not cell.takes_requests(now)}
        return self._rings.candidates(place, avoid) or names

    def _home(self, blocks: tuple[int, ...], key_depth: int) -> tuple[_Cell | None, int]:
        """The cell that was given the longest prefix, if that is no shorter than the key: what is shorter, many share,
        and every cell holds it."""
        home, given = self._given.deepest(blocks, key_depth)
        if home is None or self._cells.get(home.name) is not home:
            return None, 0
        return home, given

    def _follows(self, home: _Cell, given: int, depth: int, pairs: int, tried: Set[str], now: float) -> bool:
        """Whether a home that the rings do not name is a candidate: for what is a conversation's own. The requests of a
        key that needs several pairs are all alike as far as prompts are compared, and have to spread."""
        own = given > (depth if pairs == 1 else SAMPLE_BLOCKS)
        return own and home.name not in tried and home.takes_requests(now)

    def _weigh(self, name: str, instances: int) -> None:
        """A changed weight changes the cell's own arcs alone."""
        self._weights[name] = instances
        self._rings.add(name, instances)
        self._resize()

    def _resize(self) -> None:
        self._keys.resize(len(self._cells))
        self._given.max_marks = MARKS_PER_INSTANCE * sum(self._weights.values())


def load_of(core: Scheduler) -> CellLoad:
    """What a cell's core says to the front gateways."""
    ready = [view for view in core.instances.values() if not view.draining]
    running = sum(view.running_count for view in ready)
    kv_tokens = sum(view.booked_kv_tokens for view in ready)
    used = max(
        running / max(1, sum(view.capacity.max_running for view in ready)),
        kv_tokens / max(1, sum(view.capacity.kv_tokens for view in ready)),
    )
    arrived = core.stats.arrived
    request_s = core.stats.arrived_work_tokens / arrived * ready[0].seconds_per_token if arrived and ready else 0.0
    full = not ready or core.books.in_flight >= core.config.max_in_flight
    return CellLoad(len(ready), core.loads.mean_s, min(1.0, used), request_s=request_s, full=full)
