"""Preble's E2: exploit a long match, explore by cost otherwise; then rebalance, and copy prefixes that grow hot.

Source: arXiv 2407.00023, section 3 (algorithm 1); WukLab/preble preble/global_scheduler_with_time.py at 8e7906a.
- Exploit, when more of the prompt matches than does not: of the instances with the longest match the least loaded.
- Explore otherwise: the least of L + M + P, in seconds. L, load: work of the requests placed there in the last
  WINDOW_S. M, eviction: prefill of the blocks that would have to go, each by the share of the instance's recent
  requests that used it. P, recomputation: prefill of what the instance has not cached.
- Rebalancing: an exploiting request leaves the most loaded instance for the least loaded one while the first has more
  than TH_BAL times the load of the second.
- Autoscaling: a prefix whose requests wait OVERLOADED times as long in the second half of the window as in the first
  is copied to the least loaded instance.
Preble measures a GPU to get times; here the instance's prefill speed makes them, a decoded token counting as a prefill
token. It observes TTFTs; here they are estimated when a request is placed. Its placing of decode-heavy against
prefill-heavy requests and its queue inside the engine are left out.
"""

from collections import OrderedDict, deque
from collections.abc import Set
from dataclasses import KW_ONLY, dataclass, field

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.block_uses import add_uses, remove_uses
from dualmap.scheduler.policies.placed_blocks import PlacedBlocks
from dualmap.scheduler.request import ChoiceReason, Request

WINDOW_S = 180.0  # SlidingWindowHistogram and TTFTWindowedOverloadedDetector: window_duration = 3 minutes
TH_BAL = 1.5  # HIGH_LOAD_THRESHOLD
REBALANCE_AFTER = 50  # requests an instance, as handle_important_node_stealing waits for
OVERLOADED = 2.0  # is_node_overloaded
OUTPUT_TOKENS = 45  # runtime_selector: where the client names no limit
# Bounds the source lacks; both far beyond what three minutes bring.
MAX_HISTORY = 65_536
MAX_PREFIXES = 4096


@dataclass(slots=True, eq=False)
class _Side:
    """What the window says of one instance. uses: recent requests there by block."""

    view: InstanceView
    max_blocks: int
    load_s: float = 0.0
    _: KW_ONLY
    requests: int = 0
    uses: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Waits:
    """Waiting times of a prefix's requests, by half window."""

    half: int
    sum_s: float = 0.0
    count: int = 0
    _: KW_ONLY
    mean_before_s: float | None = None  # of the half before


class PrebleE2:
    """Ties go to the instance least recently chosen."""

    holds_requests = False

    def __init__(self, config: SchedulerConfig) -> None:
        self._block_tokens = config.block_tokens
        self._sides: dict[str, _Side] = {}  # least recently chosen first
        self._placed = PlacedBlocks()
        self._history: deque[tuple[float, _Side, float, tuple[int, ...]]] = deque()
        self._waits: OrderedDict[int, _Waits] = OrderedDict()
        self._count = 0

    def add(self, view: InstanceView) -> None:
        max_blocks = max(1, (view.capacity.cache_tokens or view.capacity.kv_tokens) // self._block_tokens)
        self._sides[view.instance_id] = _Side(view, max_blocks)
        self._placed.add(view.instance_id, max_blocks)

    def remove(self, view: InstanceView) -> None:
        side = self._sides.pop(view.instance_id)
        self._placed.remove(view.instance_id)
        self._history = deque(entry for entry in self._history if entry[1] is not side)

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        self._forget(now)
        sides = [s for i, s in self._sides.items() if i not in avoid]
        if not sides:
            return None
        blocks = request.blocks
        matched, holders = self._placed.match(blocks, avoid)
        if 2 * matched > len(blocks):
            side = self._exploit(blocks[matched - 1], holders, sides, now)
            estimate = side.view.estimate_ttft(request)
            self._note_wait(blocks[matched - 1], estimate.total_s, now)
        else:
            side = min(sides, key=lambda s: s.load_s + self._explore_s(s, blocks))
            estimate = side.view.estimate_ttft(request)
        self._record(request, side, now)
        instance_id = side.view.instance_id
        self._sides[instance_id] = self._sides.pop(instance_id)
        return Placement(estimate, (instance_id,), ChoiceReason.POLICY)

    def _exploit(self, prefix: int, holders: list[str], sides: list[_Side], now: float) -> _Side:
        held = set(holders)
        side = min((s for s in sides if s.view.instance_id in held), key=_load)
        lightest = min(sides, key=_load)
        if lightest is side:
            return side
        if self._overloaded(prefix, now) and lightest.view.instance_id not in held:
            del self._waits[prefix]  # the copy starts its own record
            return lightest
        unbalanced = side.load_s > TH_BAL * lightest.load_s and side is max(sides, key=_load)
        return lightest if unbalanced and self._count >= REBALANCE_AFTER * len(self._sides) else side

    def _explore_s(self, side: _Side, blocks: tuple[int, ...]) -> float:
        """M + P."""
        instance_id = side.view.instance_id
        missing = float(len(blocks) - self._placed.depth(blocks, instance_id))
        excess = self._placed.size(instance_id) + int(missing) - side.max_blocks
        if excess > 0 and side.requests:
            uses = side.uses
            used = 0
            for block in self._placed.oldest(instance_id, excess):
                used += uses.get(block, 0)
            missing += used / side.requests
        return missing * self._block_tokens * side.view.speed.seconds_per_token

    def _record(self, request: Request, side: _Side, now: float) -> None:
        blocks = request.blocks
        block_tokens = request.block_tokens or self._block_tokens
        cached = self._placed.depth(blocks, side.view.instance_id) * block_tokens
        work = max(1, request.prompt_tokens - cached) + (request.max_output_tokens or OUTPUT_TOKENS)
        load_s = work * side.view.speed.seconds_per_token
        self._count += 1
        side.load_s += load_s
        side.requests += 1
        add_uses(side.uses, blocks)
        self._history.append((now, side, load_s, blocks))
        self._placed.insert(blocks, side.view.instance_id)

    def _forget(self, now: float) -> None:
        history = self._history
        while history and (history[0][0] < now - WINDOW_S or len(history) >= MAX_HISTORY):
            _, side, load_s, blocks = history.popleft()
            side.requests -= 1
            side.load_s = side.load_s - load_s if side.requests else 0.0  # no rounding is left over
            remove_uses(side.uses, blocks)

    def _note_wait(self, prefix: int, wait_s: float, now: float) -> None:
        half = int(now // (WINDOW_S / 2))
        waits = self._waits.get(prefix)
        if waits is None:
            waits = self._waits[prefix] = _Waits(half)
            if len(self._waits) > MAX_PREFIXES:
                self._waits.popitem(last=False)
        else:
            self._waits.move_to_end(prefix)
        if half != waits.half:
            waits.mean_before_s = waits.sum_s / waits.count if half == waits.half + 1 else None
            waits.half, waits.sum_s, waits.count = half, 0.0, 0
        waits.sum_s += wait_s
        waits.count += 1

    def _overloaded(self, prefix: int, now: float) -> bool:
        waits = self._waits.get(prefix)
        if waits is None or waits.mean_before_s is None or waits.half != int(now // (WINDOW_S / 2)):
            return False
        return waits.sum_s / waits.count >= OVERLOADED * waits.mean_before_s


def _load(side: _Side) -> float:
    return side.load_s
