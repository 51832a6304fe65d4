"""Calls of actors in another process, and what comes of them, as pickled bytes: who only passes them on need not know
what is in them."""

import pickle
from typing import Any

from dualmap.router.reach.reach import CallError

MOST_BYTES = 256 * 1024 * 1024  # of a call: the books of a thousand instances are a tenth of it


class PackError(Exception):
    """It cannot be told to another process; the message says why."""


def packed(value: object) -> bytes:
    """Raises PackError where the value is too large, or cannot be pickled."""
    try:
        pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever the object's own methods raise
        raise PackError(f"cannot be sent to another process: {error!r}") from None
    if len(pickled) > MOST_BYTES:
        raise PackError(f"{len(pickled)} bytes are more than the {MOST_BYTES} that another process takes at once")
    return pickled


def packed_error(error: Exception) -> bytes:
    try:
        return packed(error)
    except PackError:
        return packed(RuntimeError(repr(error)))


def packed_call(actor: str, method: str, arguments: tuple[Any, ...]) -> bytes:
    """Raises CallError."""
    try:
        return packed((actor, method, arguments))
    except PackError as error:
        raise CallError(f"{method}: {error}", error) from None


def unpacked(pickled: bytes, failed: bool) -> Any:
    """What came of a call. Raises CallError where it has failed, or is an object that cannot be made here."""
    try:
        found = pickle.loads(pickled)  # of a process of this deployment
    except Exception as error:
        raise CallError(f"the answer cannot be read: {error!r}", error) from None
    if not failed:
        return found
    if isinstance(found, CallError):
        raise found
    raise CallError(f"{type(found).__name__}: {found}", found)
