"""Values as vLLM takes them: pydantic's lax mode (https://docs.pydantic.dev/latest/concepts/conversion_table/)."""

from typing import Any

_TRUE = ("1", "true", "t", "yes", "y", "on")


def lax_int(value: Any) -> int | None:
    """16, 16.0, "16", "16.0" and True; None for what is no whole number."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, float | bool) and value == value // 1:
        return int(value)
    return None


def lax_bool(value: Any) -> bool:
    """False for whatever says nothing."""
    if value is None or type(value) is bool:
        return bool(value)
    if isinstance(value, str):
        return value.lower() in _TRUE
    return isinstance(value, int | float) and value == 1


def lax_str(value: Any) -> str:
    """Empty for what is no text."""
    return value if isinstance(value, str) else ""
