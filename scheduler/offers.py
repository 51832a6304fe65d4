"""What the ready instances offer, and so which of them can run a request: those that serve its model, take so long a
prompt and answer, and do that leg.

In most fleets all offer the same. Where they do not, each model's instances are a fleet of their own, and of these
those that prefill for others: what is counted and compared for its requests is counted and compared among these.
"""

from collections.abc import Iterable, Mapping
from itertools import product
from math import inf
from typing import NamedTuple

from dualmap.scheduler.events import ServedModel
from dualmap.scheduler.request import Request
from dualmap.scheduler.role import PREFILL, WHOLE, Leg, Role


class Offer:
    """Of one instance. models: the longest prompt and answer together, by name, of LoRA adapters, too; empty: it has
    not told, and may serve any. adapters: which of the names are adapters. role: which legs it takes. revision: of
    those that can read what it has computed, and whose it can read."""

    __slots__ = ("adapters", "models", "revision", "role")

    def __init__(
        self,
        models: Iterable[ServedModel] = (),
        adapters: Iterable[str] = (),
        role: Role = Role.BOTH,
        revision: str = "",
    ) -> None:
        self.role = role
        self.revision = revision
        self.models = {model.name: model.max_tokens or inf for model in models}
        self.adapters = frozenset(adapters)
        if self.models:
            self.models |= dict.fromkeys(self.adapters, max(self.models.values()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Offer):
            return False
        own = (self.models, self.adapters, self.role, self.revision)
        return own == (other.models, other.adapters, other.role, other.revision)

    __hash__ = None  # type: ignore[assignment]

    def takes_tokens(self, model: str, is_adapter: bool) -> float:
        """The longest prompt and answer together that it takes for the model; infinite where that is not known, 0 where
        it does not serve the model. A model without a name is whichever it serves."""
        if self.models:
            return self.models.get(model, 0) if model else max(self.models.values())
        return inf if not is_adapter or model in self.adapters else 0


class Fleet(NamedTuple):
    """Instances that can run requests of up to so many tokens for a model.

    able: in the order in which they joined. unable: all others that are ready.
    bits: under which the blocks of the able ones are noted in Holders.
    name: of the instances that serve the model, whatever their lengths: the same for all models that they serve. Empty:
    all serve it. serving: how many do, of those that do the leg.
    """

    max_tokens: float
    able: tuple[str, ...]
    unable: frozenset[str]
    bits: int
    name: str
    serving: int


class Offers:
    """alike: all instances offer the same models at the same lengths, and do all of a request. all_take: by model, the
    length that then all of them take. has_roles: some do one leg only. has_revisions: then some cannot read what others
    have computed."""

    def __init__(self) -> None:
        self.alike = True
        self.has_roles = False
        self.has_revisions = False
        self.all_take: dict[str, float] = {}
        self._offers: dict[str, Offer] = {}
        self._bits: dict[str, int] = {}
        self._nobody: Fleet | None = None  # of what nobody can run
        self._forget()

    def put(self, instance_id: str, bit: int, offer: Offer) -> None:
        """The instance is ready, or offers something else."""
        first = next(iter(self._offers.values()), offer)
        goes_on = instance_id not in self._offers and _are_alike(offer, first)
        self._offers[instance_id] = offer
        self._bits[instance_id] = bit
        self._forget(alike=self.alike and goes_on)

    def remove(self, instance_id: str) -> None:
        del self._offers[instance_id], self._bits[instance_id]
        self._forget(alike=self.alike)

    def fleet(self, request: Request) -> Fleet:
        """Who can run the request; where `all_take` it, that need not be asked."""
        return self.fleet_for(request, request.leg)

    def fleet_for(self, request: Request, leg: Leg) -> Fleet:
        """Who can do that leg of the request."""
        length = request.length_tokens
        for fleet in self._fleets(request, leg):
            if length <= fleet.max_tokens:
                return fleet
        if self._nobody is None:
            self._nobody = Fleet(inf, (), frozenset(self._offers), 0, "", 0)
        return self._nobody

    def longest_tokens(self, request: Request) -> float:
        """The longest prompt and answer together that any of them takes for the request's model."""
        fleets = self._fleets(request, request.leg)
        return fleets[-1].max_tokens if fleets else 0

    def peers(self, instance_id: str) -> Mapping[str, Offer] | None:
        """Those that serve a model and do a leg which the instance does, itself among them; None: all do."""
        offer = self._offers.get(instance_id)
        if self.alike or offer is None or not (offer.models or self.has_roles):
            return None
        peers = self._peers.get(instance_id)
        if peers is None:
            peers = self._peers[instance_id] = {
                i: other for i, other in self._offers.items() if _are_peers(offer, other)
            }
        return peers

    def check(self, offers: Mapping[str, Offer]) -> None:
        """Raise AssertionError where these are not the offers of the instances that are ready."""
        assert self._offers == offers, "what ready instances offer"
        models = [offer.models for offer in offers.values()]
        assert self.has_roles == any(offer.role is not Role.BOTH for offer in offers.values()), (
            "whether some have roles"
        )
        assert self.alike == (models == models[:1] * len(models) and not self.has_roles), "whether all offer the same"
        for known, is_adapter in ((self._of_models, False), (self._of_adapters, True)):
            for (prefills, model, revision), fleets in known.items():
                leg = PREFILL if prefills else WHOLE
                assert fleets == self._fleets_of(model, leg, revision, is_adapter), f"instances that serve {model!r}"

    def _forget(self, *, alike: bool = False) -> None:
        """What was made of the offers before. alike: it is known that all of them are, without a look at each."""
        offers = iter(self._offers.values())
        first = next(offers, None)
        self.alike = alike or first is None or (_are_alike(first, first) and all(_are_alike(o, first) for o in offers))
        self.has_roles = not self.alike and any(offer.role is not Role.BOTH for offer in self._offers.values())
        self.has_revisions = self.has_roles and len({offer.revision for offer in self._offers.values()}) > 1
        self.all_take = {}
        if self.alike and first is not None:
            self.all_take = first.models | {"": first.takes_tokens("", False)}
        # By whether the leg is prefill, model and revision: a Leg, as an enum, takes long to hash.
        self._of_models: dict[tuple[bool, str, str | None], tuple[Fleet, ...]] = {}
        self._of_adapters: dict[tuple[bool, str, str | None], tuple[Fleet, ...]] = {}
        self._peers: dict[str, Mapping[str, Offer]] = {}
        self._names: dict[tuple[str, ...], str] | None = None
        self._nobody = None

    def _fleets(self, request: Request, leg: Leg) -> tuple[Fleet, ...]:
        """By length, ascending. Models that nobody serves are not kept: their names are made up by clients."""
        known = self._of_adapters if request.adapter else self._of_models
        model = request.adapter or request.model
        prefills, revision = leg is PREFILL, request.revision
        fleets = known.get((prefills, model, revision))
        if fleets is None:
            leg = PREFILL if prefills else WHOLE  # who decodes takes whole requests, too
            fleets = self._fleets_of(model, leg, revision, bool(request.adapter))
            if fleets:
                known[prefills, model, revision] = fleets
        return fleets

    def _fleets_of(self, model: str, leg: Leg, revision: str | None, is_adapter: bool) -> tuple[Fleet, ...]:
        """By length, ascending; none where nobody serves the model."""
        takes = self._takes(model, leg, revision, is_adapter)
        serving = tuple(i for i, tokens in takes.items() if tokens)
        fleets = []
        for most in sorted({takes[i] for i in serving}):
            able = tuple(i for i in serving if takes[i] >= most)
            unable = frozenset(takes.keys() - set(able))
            bits = sum(self._bits[i] for i in able)
            fleets.append(Fleet(most, able, unable, bits, self._name_of(serving), len(serving)))
        return tuple(fleets)

    def _takes(self, model: str, leg: Leg, revision: str | None, is_adapter: bool) -> dict[str, float]:
        """By instance, the longest prompt and answer that it takes; 0: none. A prompt is computed for others only where
        one can read it that answers."""
        takes = {
            i: offer.takes_tokens(model, is_adapter)
            if offer.role.takes(leg) and revision in (None, offer.revision)
            else 0
            for i, offer in self._offers.items()
        }
        if leg is not PREFILL:
            return takes
        read: dict[str, float] = {}  # by revision
        for i, tokens in self._takes(model, WHOLE, None, is_adapter).items():
            of = self._offers[i].revision
            read[of] = max(tokens, read.get(of, 0))
        return {i: min(tokens, read.get(self._offers[i].revision, 0)) for i, tokens in takes.items()}

    def _name_of(self, serving: tuple[str, ...]) -> str:
        if len(serving) == len(self._offers):
            return ""
        if self._names is None:
            models = {model for offer in self._offers.values() for model in offer.models}
            self._names = {}
            for model in sorted(models):
                self._names.setdefault(self._serving(model, WHOLE), model)
            if self.has_roles:
                for model, leg in product(("", *sorted(models)), (WHOLE, PREFILL)):
                    self._names.setdefault(self._serving(model, leg), f"{leg} {model}")
        return self._names.get(serving, "")

    def _serving(self, model: str, leg: Leg) -> tuple[str, ...]:
        """model: empty: whichever they serve."""
        return tuple(i for i, tokens in self._takes(model, leg, None, False).items() if tokens)


def _are_alike(one: Offer, other: Offer) -> bool:
    """Whether both do all of a request for the same models."""
    return one.models == other.models and one.role is Role.BOTH and other.role is Role.BOTH


def _are_peers(one: Offer, other: Offer) -> bool:
    """Whether there is a request, or a leg of one, that both can run."""
    if one.role is not other.role and Role.BOTH not in (one.role, other.role):
        return False
    return not one.models or not other.models or not one.models.keys().isdisjoint(other.models)
