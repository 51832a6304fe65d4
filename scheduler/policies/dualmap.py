"""DualMap: the prefix names two candidates, the state of the system picks one of them, and where that knows better, one
of a few others: instances that hold more of the prefix, and the one with the least to do. Looks at a handful of
instances, however many there are."""

from collections.abc import Set
from itertools import islice
from math import inf

from xxhash import xxh3_64_intdigest

from dualmap.scheduler.answer_lengths import AnswerLengths
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.dual_ring import DualRing
from dualmap.scheduler.events import PrefixDepths
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.offers import Fleet, Offers
from dualmap.scheduler.pick import SESSION_SHARE, SessionHome, pick_instance, recompute_price
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.prefix_key import PAIR, PrefixKeys
from dualmap.scheduler.request import Request
from dualmap.scheduler.role import PREFILL
from dualmap.scheduler.sessions import Sessions
from dualmap.scheduler.ttft_estimate import TtftEstimate

MAX_COOLEST = 8  # of which one is drawn where there are several gateways
AHEAD = 0.9  # share of the work at an instance
SPREAD = 0x9E3779B97F4A7C15  # odd, so that its multiples lie far apart
MAX_HASH = 2**64 - 1
MAX_TURNS = 1024  # hot prompts whose turns are remembered
FEW_HOLDERS = 16  # all of which are looked at; of more, those among the coolest instances
COOL_HOLDERS = 64
MAX_FLEETS = 64  # whose hot prefixes are told apart, where instances serve different models
NOBODY: frozenset[str] = frozenset()
MAX_HOLDERS = 2  # a prefix has rarely more homes, and one that has is cheap to compute again: it serves many


class DualMap:
    """config: may be replaced by one that differs in LIVE_SETTINGS."""

    def __init__(
        self,
        config: SchedulerConfig,
        holders: Holders,
        loads: LoadOrder[InstanceView],
        offers: Offers,
        answers: AnswerLengths,
        sessions: Sessions,
    ) -> None:
        self.holds_requests = config.gateway_queue
        self.config = config
        self._holders = holders
        self._loads = loads
        self._offers = offers
        self._answers = answers
        self._sessions = sessions
        self.rings = DualRing(config.virtual_nodes, dual=config.dual_mapping)
        self.keys = PrefixKeys(config.key_blocks, config.max_key_blocks, adaptive=config.adaptive_key)
        self.fleet_keys: dict[str, PrefixKeys] = {}  # by Fleet.name, of those that do not serve what all serve
        self._agreed = PrefixDepths(0, ())
        self._views: dict[str, InstanceView] = {}
        self._ids: list[str] = []  # of these
        # Last block of a prompt that is spread, and who spreads it -> its requests so far.
        self._turns: dict[int | tuple[str, int], int] = {}

    def add(self, view: InstanceView) -> None:
        self._views[view.instance_id] = view
        self._ids.append(view.instance_id)
        self.rings.add(view.instance_id, view.capacity.ring_weight)
        self.keys.resize(len(self.rings))

    def remove(self, view: InstanceView) -> None:
        del self._views[view.instance_id]
        self._ids.remove(view.instance_id)
        self.rings.remove(view.instance_id)
        self.keys.resize(len(self.rings))

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        key_depth = shared_blocks = 0
        finds_hot = False
        chain = request.key_blocks or request.blocks
        fleet, unable, keys = None, NOBODY, self.keys
        if not self._offers.alike:
            fleet = self._offers.fleet(request)
            unable, keys = fleet.unable, self._keys_of(fleet)
        if chain:
            known = keys.found
            ring_key = keys.observe(chain)
            finds_hot = keys.found > known
            key_depth, shared_blocks = ring_key.depth, ring_key.shared_blocks
            if ring_key.homes > PAIR:
                candidates = self._homes_in_turn(ring_key.key, ring_key.homes, request, avoid, fleet)
            else:
                candidates = self.rings.candidates(ring_key.key, avoid, unable)
            if request.key_blocks:  # as many whole blocks of what caches hold as that is of the prompt
                key_depth = key_depth * len(request.blocks) // len(chain)
                shared_blocks = shared_blocks * len(request.blocks) // len(chain)
        else:  # no prefix to reuse: any two instances will do, but for a session the same
            candidates = self.rings.candidates(request.session or xxh3_64_intdigest(request.id.encode()), avoid, unable)
        if not candidates:
            return None
        views = [self._views[instance_id] for instance_id in candidates]
        if self.config.find_holders:
            self._add_holders(views, request, key_depth, avoid, fleet)
        session_home = self._session_home(views, request, slo_s, avoid) if request.session else None
        tpot_slo_s = self.config.tpot_slo_s if request.tpot_slo_s is None else request.tpot_slo_s
        estimates = [view.estimate_ttft(request, shared_blocks, tpot_slo_s) for view in views]
        goes_ahead = self._loads.waiting > 0 and any(map(_goes_ahead, estimates, views))
        if self.config.escape:
            coolest = self._soonest(views, request, avoid) if goes_ahead else self._coolest(views, request, avoid)
            if coolest is not None:
                estimates.append(coolest.estimate_ttft(request, shared_blocks, tpot_slo_s))
        busy = self._loads.busy if fleet is None else self._loads.busy_of(fleet.able)
        price = recompute_price(busy, self.config)
        # Where it goes ahead of a crowd, how many of the crowd run at which instance is chance.
        counts_decoding = not goes_ahead and (fleet is None or request.leg is not PREFILL)
        decode_price_s = self.config.decode_s_per_request * self._answers.mean_tokens if counts_decoding else None
        estimate, reason = pick_instance(
            estimates, self.config.slo_aware, price, decode_price_s, self._answers.mean_tokens, session_home
        )
        return Placement(
            estimate, candidates, reason, considered=estimates, shared_blocks=shared_blocks, finds_hot=finds_hot
        )

    def agree(self, agreed: PrefixDepths) -> bool:
        """Use these depths and homes from now on. False if they are older than those in use."""
        if not self.keys.agree(agreed.epoch, agreed.depths, agreed.homes):
            return False
        self._agreed = agreed
        for keys in self.fleet_keys.values():
            keys.agree(agreed.epoch, agreed.depths, agreed.homes)
        return True

    def key_of(self, request: Request) -> int:
        """The ring key of a request whose prompt has a block, without counting it."""
        return self._keys_of(self._offers.fleet(request)).key(request.chain)

    def shared_blocks(self, request: Request) -> int:
        """Leading blocks of its prompt that many share, as far as is known by now."""
        if not request.chain:
            return 0
        shared = self._keys_of(self._offers.fleet(request)).shared_blocks(request.chain)
        return shared * len(request.blocks) // len(request.chain)

    def candidates_of(self, key: int, request: Request) -> tuple[str, ...]:
        """Of such a request's key, of all that can run it."""
        unable = self._offers.fleet(request).unable
        return self.rings.candidates(key, unable, unable)

    @property
    def deepened(self) -> int:
        """How many hot prefixes are told apart further than others."""
        return sum(len(keys.depths) for keys in (self.keys, *self.fleet_keys.values()))

    def check(self) -> None:
        """Raise AssertionError where what is counted of prefixes contradicts itself."""
        for keys in (self.keys, *self.fleet_keys.values()):
            keys.check()

    def _keys_of(self, fleet: Fleet) -> PrefixKeys:
        """Which prefixes are hot among those that serve what the fleet serves."""
        if not fleet.name:
            return self.keys
        keys = self.fleet_keys.get(fleet.name)
        if keys is None:
            config, agreed = self.config, self._agreed
            keys = PrefixKeys(config.key_blocks, config.max_key_blocks, adaptive=config.adaptive_key)
            keys.agree(agreed.epoch, agreed.depths, agreed.homes)
            self.fleet_keys[fleet.name] = keys
            if len(self.fleet_keys) > MAX_FLEETS:
                del self.fleet_keys[next(iter(self.fleet_keys))]
        keys.resize(fleet.serving)
        return keys

    def _homes_in_turn(
        self, key: int, homes: int, request: Request, avoid: Set[str], fleet: Fleet | None
    ) -> tuple[str, ...]:
        """One of the pairs of instances that are the homes of a hot prompt. Where all are homes: each in its turn, so
        that idle ones get equal shares, and beside it another one."""
        last = request.chain[-1] if fleet is None else (fleet.name, request.chain[-1])
        draw = xxh3_64_intdigest(request.id.encode())
        turn = self._turns.pop(last, draw) + 1  # several gateways begin at different places
        self._turns[last] = turn
        if len(self._turns) > MAX_TURNS:
            del self._turns[next(iter(self._turns))]
        ids, unable = (self._ids, NOBODY) if fleet is None else (fleet.able, fleet.unable)
        if homes < len(ids):
            return self.rings.candidates(key ^ (turn % (homes // PAIR) * SPREAD & MAX_HASH), avoid, unable)
        candidates = self.rings.candidates(draw, avoid, unable)
        if not candidates:
            return candidates
        first = ids[turn % len(ids)]
        return candidates if first in avoid else (first, *[i for i in candidates if i != first][:1])

    def _coolest(self, views: list[InstanceView], request: Request, avoid: Set[str]) -> InstanceView | None:
        """Where all the others have to wait, or to decode beside others, somebody else may not. Several gateways, each
        with what it knew a moment ago, must not all find the same one: each request draws one of a few."""
        rivals = self._loads.rivals
        few = 1 if rivals is None else min(2 + rivals, MAX_COOLEST)
        least_s = inf
        for view in views:
            least_s = min(least_s, view.load_s)
        cool: list[InstanceView] = []
        for place in range(len(self._loads)):
            view = self._loads.at(place)
            if view.load_s >= least_s or len(cool) == few:
                break
            if view.instance_id not in avoid:
                cool.append(view)
        if len(cool) > 1:
            return cool[xxh3_64_intdigest(request.id.encode()) % len(cool)]
        return cool[0] if cool else None

    def _soonest(self, views: list[InstanceView], request: Request, avoid: Set[str]) -> InstanceView | None:
        """The same for a request that need not wait for all that waits."""
        others = [
            view
            for view in islice(self._loads.coolest(), MAX_COOLEST + len(avoid))
            if view not in views and view.instance_id not in avoid
        ]
        return min(others, key=lambda view: view.ahead_s(request)) if others else None

    def _session_home(
        self, views: list[InstanceView], request: Request, slo_s: float, avoid: Set[str]
    ) -> SessionHome | None:
        """Where the session's last request ran, now among those that are looked at."""
        ran_at = self._sessions.ran_at(request.session)
        view = self._views.get(ran_at) if ran_at is not None and ran_at not in avoid else None
        if view is None:
            return None
        if view not in views:
            views.append(view)
        return SessionHome(view.instance_id, SESSION_SHARE * slo_s)

    def _add_holders(
        self, views: list[InstanceView], request: Request, key_depth: int, avoid: Set[str], fleet: Fleet | None
    ) -> None:
        """A prefix that left its candidates is found again. What no more than the key is shared by many, and their
        candidates hold it: following it anywhere else would gather all of them on the first instance that had it."""
        if fleet is None:
            depth, mask = self._holders.deepest(request.blocks)
        else:
            depth, mask = self._holders.deepest_of(request.blocks, fleet.bits)
        if depth <= key_depth:
            return
        for view in views:
            mask &= ~view.bit
        if mask.bit_count() <= FEW_HOLDERS:
            holders = [self._views[i] for i in self._holders.instances(mask) if i in self._views and i not in avoid]
            views += sorted(holders, key=lambda view: view.load_s)[:MAX_HOLDERS]
        else:
            cool = islice(self._loads.coolest(), COOL_HOLDERS + len(avoid))
            views += [v for v in cool if v.bit & mask and v.instance_id not in avoid][:MAX_HOLDERS]


def _goes_ahead(estimate: TtftEstimate, view: InstanceView) -> bool:
    """By its priority or its tenant, of most of what waits there."""
    return estimate.total_s - estimate.prefill_s < AHEAD * view.backlog_s
