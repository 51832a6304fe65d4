"""The models that the fleet serves, merged from its members' model cards."""

from typing import Any

import msgspec

from router.membership import Membership, MemberState


class ModelList:
    """ids: empty while no member has told its models. body: the answer to GET /v1/models."""

    def __init__(self, membership: Membership) -> None:
        cards: dict[str, dict[str, Any]] = {}
        for member in membership.members:
            if member.state in (MemberState.READY, MemberState.DRAINING):
                for card in member.model_cards:
                    cards.setdefault(str(card.get("id")), card)
        self.ids = frozenset(cards)
        self._adapters = frozenset(model for model, card in cards.items() if card.get("parent"))
        self.body = msgspec.json.encode({"object": "list", "data": [cards[model] for model in sorted(cards)]})

    def lora_name(self, model: str) -> str:
        """The adapter that a request for the model runs with; empty for a base model."""
        return model if model in self._adapters else ""
