"""The models that the fleet serves, merged from its members' model cards, and which pool serves each."""

from collections.abc import Set
from typing import Any

import msgspec

from dualmap.scheduler.fleet.member import SERVING, Membership


class ModelList:
    """body: the answer to GET /v1/models. twice: models of several pools, of which the first by name serves them.
    silent: the members of a pool have not told yet what they serve. only_model: what a request is for that names none,
    as instances see it; empty where several pools, or none, serve models."""

    def __init__(self, membership: Membership, first_pool: str) -> None:
        cards: dict[str, dict[str, Any]] = {}
        self._pools: dict[str, str] = {}
        self._adapters: set[str] = set()
        twice = set()
        for member in sorted(membership.members, key=lambda member: member.pool):
            for card in member.model_cards:
                model = str(card.get("id"))
                if card.get("parent"):
                    self._adapters.add(model)
                if member.state in SERVING:
                    cards.setdefault(model, card)
                if self._pools.setdefault(model, member.pool) != member.pool:
                    twice.add(model)
        self.twice = sorted(twice)
        self._first_pool = first_pool
        self.silent = bool({member.pool for member in membership.members} - set(self._pools.values()))
        self._cards = cards
        self.body = self.body_for(None)
        base = (model for model in cards if model not in self._adapters)
        self.only_model = next(base, "") if len(set(self._pools.values())) == 1 else ""

    def body_for(self, models: Set[str] | None) -> bytes:
        """With these models alone; None: all."""
        cards = [self._cards[model] for model in sorted(self._cards) if models is None or model in models]
        return msgspec.json.encode({"object": "list", "data": cards})

    def card_of(self, model: str, models: Set[str] | None) -> bytes | None:
        """The model's card, unless it is none of these models; None for all."""
        card = self._cards.get(model) if models is None or model in models else None
        return None if card is None else msgspec.json.encode(card)

    def pool_of(self, model: str) -> str | None:
        """The pool that serves the model, also while none of its instances is ready; None where nobody does. The first
        one where no model is named, or none is known yet."""
        pool = self._pools.get(model)
        if pool is None and (not model or not self._pools):
            return self._first_pool
        return pool

    def lora_name(self, model: str) -> str:
        """The adapter that a request for the model runs with; empty for a base model."""
        return model if model in self._adapters else ""
