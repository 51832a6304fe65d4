"""The models that the fleet serves, merged from its members' model cards, and which pool serves each."""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import msgspec

from dualmap.scheduler.fleet.member import SERVING, Member, Membership, MemberState, max_tokens_of


class ModelList:
    """body: the answer to GET /v1/models. twice: models of several pools, of which the first by name serves them.
    silent: the members of a pool have not told yet what they serve. only_model: what a request is for that names none,
    as instances see it; empty where instances see it differently, or none serve models. mixed: they do see it
    differently. mixed_pools: in which they do. aliases: names of clients', and what instances call the model. same:
    names of models, and under which the model's prompts are hashed where that is another of its names."""

    def __init__(
        self,
        membership: Membership,
        first_pool: str,
        aliases: Mapping[str, str] | None = None,
        unknown_pool: str | None = None,
    ) -> None:
        """unknown_pool: nobody knows what it serves; it may be what others do not."""
        self.aliases: Mapping[str, str] = aliases or {}
        self._cards: dict[str, dict[str, Any]] = {}
        self._pools: dict[str, str] = {}
        self._adapters: set[str] = set()
        self._ready_tokens: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        twice = set()
        members = sorted(membership.members, key=lambda member: member.pool)
        for member in members:
            for card in member.model_cards:
                model = str(card.get("id"))
                if card.get("parent"):
                    self._adapters.add(model)
                if member.state in SERVING:
                    self._list(model, card)
                if self._pools.setdefault(model, member.pool) != member.pool:
                    twice.add(model)
            self._note_lengths(member)
        self.twice = sorted(twice)
        self._first_pool = first_pool
        self._unknown_pool = unknown_pool
        self.silent = bool({member.pool for member in members} - set(self._pools.values()))
        bases_of: dict[str, set[str]] = {}
        for member in members:
            if member.models:
                bases_of.setdefault(member.pool, set()).add(member.models[0].name)
        self.mixed_pools = {pool for pool, names in bases_of.items() if len(names) > 1}
        bases = set[str]().union(*bases_of.values())
        self.mixed = len(bases) > 1
        one_pool = len(set(self._pools.values())) == 1
        self.only_model = next(iter(bases), "") if one_pool and not self.mixed else ""
        self.same = _same_models(members)
        self.same |= {alias: self.same.get(model, model) for alias, model in self.aliases.items()}
        self.body = self.body_for(None)

    def body_for(self, models: Set[str] | None) -> bytes:
        """With these models alone; None: all."""
        named = sorted({*self._cards, *self.aliases})
        cards = [card for model in named if (card := self._card(model, models)) is not None]
        return msgspec.json.encode({"object": "list", "data": cards})

    def card_of(self, model: str, models: Set[str] | None) -> bytes | None:
        """The model's card, unless it is none of these models; None for all."""
        card = self._card(model, models)
        return None if card is None else msgspec.json.encode(card)

    def pool_of(self, model: str) -> str | None:
        """The pool that serves the model, also while none of its instances is ready, or that may do so; None where
        nobody does. The first one where no model is named, or none is known yet."""
        pool = self._pools.get(model)
        if pool is None and (not model or not self._pools):
            return self._first_pool
        return self._unknown_pool if pool is None else pool

    def known(self, model: str) -> str:
        """The model, if an instance has told of it; else empty: clients may name what they like."""
        return model if model in self._pools else ""

    def served_name(self, model: str) -> str:
        """What instances call what clients call so."""
        return self.aliases.get(model, model)

    def lora_name(self, model: str) -> str:
        """The adapter that a request for the model runs with; empty for a base model."""
        return model if model in self._adapters else ""

    def length_to_ask(self, model: str, tokens: int, most_tokens: int) -> int:
        """How long a context an instance must take for a prompt and answer of so many tokens, as estimated; 0: any
        will do. Where the estimate is more than any instance takes, the longest one will say the truth.

        most_tokens: as many as there may be.
        """
        longest = self._tokens.get(model, 0)
        if not longest:
            return 0
        ready = self._ready_tokens.get(model, 0) or longest
        return min(most_tokens, ready if tokens <= ready else longest)

    def context_tokens(self, model: str) -> int:
        """The longest prompt and answer that any instance takes for the model; 0: not known."""
        return self._tokens.get(model, 0)

    def _list(self, model: str, card: dict[str, Any]) -> None:
        """Of several members the first one's card, with the largest length of all."""
        known = self._cards.setdefault(model, card)
        if max_tokens_of(card) > max_tokens_of(known):
            self._cards[model] = known | {"max_model_len": card["max_model_len"]}

    def _card(self, model: str, models: Set[str] | None) -> dict[str, Any] | None:
        served = self.served_name(model)
        card = self._cards.get(served)
        if card is None or not (models is None or model in models or served in models):
            return None
        return card if served == model else card | {"id": model, "root": served}

    def _note_lengths(self, member: Member) -> None:
        """A length that is not known bounds nothing, and so is left out."""
        models = {model.name: model.max_tokens for model in member.models}
        models |= dict.fromkeys(member.adapters, max(models.values(), default=0))
        for model, tokens in models.items():
            self._tokens[model] = max(tokens, self._tokens.get(model, 0))
            if member.state is MemberState.READY:
                self._ready_tokens[model] = max(tokens, self._ready_tokens.get(model, 0))


def _same_models(members: Iterable[Member]) -> dict[str, str]:
    """Further names of a model that is served under several, and the first by alphabet."""
    names: dict[str, set[str]] = {}
    for member in members:
        for card in member.model_cards:
            if not card.get("parent") and isinstance(root := card.get("root"), str):
                names.setdefault(root, set()).add(str(card.get("id")))
    firsts = ((min(alike), alike) for alike in names.values())
    return {name: first for first, alike in firsts for name in alike if name != first}
