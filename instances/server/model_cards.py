"""What a server says in GET /v1/models."""

import json
from typing import Any


class ModelCardsError(Exception):
    """It is no list of models; the message says what is wrong."""


def model_cards(body: bytes) -> tuple[dict[str, Any], ...]:
    """The entries of the answer, one at least. Raises ModelCardsError."""
    try:
        cards = json.loads(body)["data"]
        found = tuple({**card, "id": str(card["id"])} for card in cards)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelCardsError(f"GET /v1/models answered with no list of models: {error!r}") from None
    if not found:
        raise ModelCardsError("GET /v1/models answered with an empty list")
    return found
