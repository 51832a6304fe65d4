"""What a server says in GET /v1/models."""

import json
from typing import Any


class ModelCardsError(Exception):
    """It is no list of models; the message says what is wrong."""


def model_cards(body: bytes) -> tuple[dict[str, Any], ...]:
    """The entries of the answer, one at least. Raises ModelCardsError."""
    try:
        found = tuple({**card} for card in json.loads(body)["data"])
        named = all(isinstance(card["id"], str) and card["id"] for card in found)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelCardsError(f"GET /v1/models answered with no list of models: {error!r}") from None
    if not (found and named):
        raise ModelCardsError("GET /v1/models answered with a list without models, or with one that has no name")
    return found


def facts_of(cards: tuple[dict[str, Any], ...]) -> list[tuple[Any, ...]]:
    """All that counts: cards also say when they were made."""
    return [(card["id"], card.get("parent"), card.get("root"), card.get("max_model_len")) for card in cards]
