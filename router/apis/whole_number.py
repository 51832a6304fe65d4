"""A number of a request's field, as vLLM reads it (pydantic's lax mode)."""

from typing import Any

import msgspec


def whole_number(value: Any) -> int:
    """16, 16.0 and "16.0" are one. Raises msgspec.MsgspecError for what is no whole number."""
    return msgspec.convert(value, int, strict=False)
