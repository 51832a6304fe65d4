"""An answer that is made again, whole, by another instance than the one that failed it: what the client has of it is
compared and left out, and from there on the client gets the second answer as if it were the first.

For answers that are the same whenever they are made: drawn with a seed, or not drawn at all.
"""

from collections.abc import Hashable
from typing import Any, Protocol

import msgspec

from dualmap.router.apis.stream_event import read_event


class DiffersError(Exception):
    """The second answer is not the first one."""


class Replayed(Protocol):
    """One answer. is_over: the last of its events has come."""

    is_over: bool

    def note(self, event: bytes) -> None:
        """Take an event that the client has. Raises ValueError where it cannot be read."""
        ...

    def show(self, event: bytes) -> bytes:
        """What the client gets of an event of the second answer. Raises DiffersError, and ValueError where it cannot
        be read."""
        ...


class Texts:
    """The texts of an answer, each by its place: those of one choice come one after the other."""

    def __init__(self) -> None:
        self._left: dict[Hashable, dict[Hashable, str]] = {}  # by choice and place: what is still to be compared

    def note(self, choice: Hashable, place: Hashable, text: str) -> None:
        """The client has this text, behind what it had before."""
        places = self._left.setdefault(choice, {})
        places[place] = places.get(place, "") + text

    def rest(self, choice: Hashable, place: Hashable, text: str) -> str:
        """What of the text the client has not. Raises DiffersError."""
        places = self._left.get(choice)
        if not places:
            return text
        left = places.pop(place, "")
        if left.startswith(text):
            if left != text:
                places[place] = left[len(text) :]
            return ""
        if not text.startswith(left) or places:
            raise DiffersError
        return text[len(left) :]

    def end(self, choice: Hashable) -> None:
        """No more of the choice comes. Raises DiffersError."""
        if self._left.get(choice):
            raise DiffersError


def read_typed_event(event: bytes) -> dict[str, Any]:
    """What an event says that names its `type`. Raises ValueError."""
    try:
        content: dict[str, Any] = msgspec.json.decode(read_event(event)[1])
        if isinstance(content["type"], str):
            return content
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError from error
    raise ValueError
