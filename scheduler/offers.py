"""What the ready instances offer, and so which of them can run a request: those that serve its model, and take so long
a prompt and answer.

In most fleets all offer the same. Where they do not, each model's instances are a fleet of their own: what is counted
and compared for its requests is counted and compared among these.
"""

from collections.abc import Iterable, Mapping
from math import inf
from typing import NamedTuple

from dualmap.scheduler.events import ServedModel
from dualmap.scheduler.request import Request


class Offer:
    """Of one instance. models: the longest prompt and answer together, by name, of LoRA adapters, too; empty: it has
    not told, and may serve any. adapters: which of the names are adapters."""

    __slots__ = ("adapters", "models")

    def __init__(self, models: Iterable[ServedModel] = (), adapters: Iterable[str] = ()) -> None:
        self.models = {model.name: model.max_tokens or inf for model in models}
        self.adapters = frozenset(adapters)
        if self.models:
            self.models |= dict.fromkeys(self.adapters, max(self.models.values()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Offer) and (self.models, self.adapters) == (other.models, other.adapters)

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
    all serve it. serving: how many do.
    """

    max_tokens: float
    able: tuple[str, ...]
    unable: frozenset[str]
    bits: int
    name: str
    serving: int


class Offers:
    """alike: all instances offer the same models at the same lengths. all_take: by model, the length that then all of
    them take."""

    def __init__(self) -> None:
        self.alike = True
        self.all_take: dict[str, float] = {}
        self._offers: dict[str, Offer] = {}
        self._bits: dict[str, int] = {}
        self._nobody: Fleet | None = None  # of what nobody can run
        self._forget()

    def put(self, instance_id: str, bit: int, offer: Offer) -> None:
        """The instance is ready, or offers something else."""
        first = next(iter(self._offers.values()), offer)
        goes_on = instance_id not in self._offers and offer.models == first.models
        self._offers[instance_id] = offer
        self._bits[instance_id] = bit
        self._forget(alike=self.alike and goes_on)

    def remove(self, instance_id: str) -> None:
        del self._offers[instance_id], self._bits[instance_id]
        self._forget(alike=self.alike)

    def fleet(self, request: Request) -> Fleet:
        """Who can run the request; where `all_take` it, that need not be asked."""
        length = request.length_tokens
        for fleet in self._fleets(request):
            if length <= fleet.max_tokens:
                return fleet
        if self._nobody is None:
            self._nobody = Fleet(inf, (), frozenset(self._offers), 0, "", 0)
        return self._nobody

    def longest_tokens(self, request: Request) -> float:
        """The longest prompt and answer together that any of them takes for the request's model."""
        fleets = self._fleets(request)
        return fleets[-1].max_tokens if fleets else 0

    def peers(self, instance_id: str) -> Mapping[str, Offer] | None:
        """Those that serve a model which the instance serves, itself among them; None: all do."""
        offer = self._offers.get(instance_id)
        if self.alike or offer is None or not offer.models:
            return None
        peers = self._peers.get(instance_id)
        if peers is None:
            models = offer.models.keys()
            peers = self._peers[instance_id] = {
                i: other for i, other in self._offers.items() if not other.models or not models.isdisjoint(other.models)
            }
        return peers

    def check(self, offers: Mapping[str, Offer]) -> None:
        """Raise AssertionError where these are not the offers of the instances that are ready."""
        assert self._offers == offers, "what ready instances offer"
        models = [offer.models for offer in offers.values()]
        assert self.alike == (models == models[:1] * len(models)), "whether all offer the same"
        for known, is_adapter in ((self._of_models, False), (self._of_adapters, True)):
            for model, fleets in known.items():
                assert fleets == self._fleets_of(model, is_adapter=is_adapter), f"instances that serve {model!r}"

    def _forget(self, *, alike: bool = False) -> None:
        """What was made of the offers before. alike: it is known that all of them are, without a look at each."""
        offers = iter(self._offers.values())
        first = next(offers, None)
        self.alike = alike or first is None or all(offer.models == first.models for offer in offers)
        self.all_take = {}
        if self.alike and first is not None:
            self.all_take = first.models | {"": first.takes_tokens("", False)}
        self._of_models: dict[str, tuple[Fleet, ...]] = {}
        self._of_adapters: dict[str, tuple[Fleet, ...]] = {}
        self._peers: dict[str, Mapping[str, Offer]] = {}
        self._names: dict[tuple[str, ...], str] | None = None
        self._nobody = None

    def _fleets(self, request: Request) -> tuple[Fleet, ...]:
        """By length, ascending. Models that nobody serves are not kept: their names are made up by clients."""
        known = self._of_adapters if request.adapter else self._of_models
        model = request.adapter or request.model
        fleets = known.get(model)
        if fleets is None:
            fleets = self._fleets_of(model, is_adapter=bool(request.adapter))
            if fleets:
                known[model] = fleets
        return fleets

    def _fleets_of(self, model: str, *, is_adapter: bool) -> tuple[Fleet, ...]:
        """By length, ascending; none where nobody serves the model."""
        takes = {i: offer.takes_tokens(model, is_adapter) for i, offer in self._offers.items()}
        serving = tuple(i for i, tokens in takes.items() if tokens)
        fleets = []
        for most in sorted({takes[i] for i in serving}):
            able = tuple(i for i in serving if takes[i] >= most)
            unable = frozenset(takes.keys() - set(able))
            bits = sum(self._bits[i] for i in able)
            fleets.append(Fleet(most, able, unable, bits, self._name_of(serving), len(serving)))
        return tuple(fleets)

    def _name_of(self, serving: tuple[str, ...]) -> str:
        if len(serving) == len(self._offers):
            return ""
        if self._names is None:
            models = {model for offer in self._offers.values() for model in offer.models}
            self._names = {}
            for model in sorted(models):
                served_by = tuple(i for i, o in self._offers.items() if not o.models or model in o.models)
                self._names.setdefault(served_by, model)
        return self._names.get(serving, "")
