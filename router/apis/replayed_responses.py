"""OpenAI's responses that are made again: see replayed.py. Each event bears ids of the response or of an item, and a
number; what the client gets of the second response bears those of the first, and numbers that follow."""

from typing import Any

import msgspec

from dualmap.router.apis.replayed import Texts, read_typed_event

_ENDS = ("response.completed", "response.incomplete", "response.failed")
_ITEM_DONE = "response.output_item.done"
_ITEM_IDS = ("id", "call_id")


class ReplayedResponse:
    """See Replayed."""

    def __init__(self) -> None:
        self.is_over = False
        self._texts = Texts()
        self._has: set[tuple[str, Any, Any]] = set()  # events that are no delta
        self._number = -1
        self._created_at: Any = None
        self._first: dict[Any, Any] = {}  # ids of the first response, by what they are of
        self._ids: dict[bytes, bytes] = {}  # of the second one -> of the first one

    def note(self, event: bytes) -> None:
        content = read_typed_event(event)
        place = _place(content)
        self._number = content["sequence_number"]
        self._first |= _ids_in(content)
        if "response" in content:
            self._created_at = content["response"]["created_at"]
        if isinstance(delta := content.get("delta"), str):
            self._texts.note(place[1], (place[0], place[2]), delta)
        else:
            self._has.add(place)

    def show(self, event: bytes) -> bytes:
        content = read_typed_event(event)
        place = _place(content)
        for what, name in _ids_in(content).items():
            if what in self._first:
                self._ids[msgspec.json.encode(name)] = msgspec.json.encode(self._first[what])
        self.is_over |= place[0] in _ENDS
        if place[0] == _ITEM_DONE:
            self._texts.end(place[1])
        if isinstance(delta := content.get("delta"), str):
            content["delta"] = rest = self._texts.rest(place[1], (place[0], place[2]), delta)
            if delta and not rest:
                return b""
        elif place in self._has:
            return b""
        if "response" in content:
            content["response"]["created_at"] = self._created_at
        self._number += 1
        data = msgspec.json.encode(content | {"sequence_number": self._number})
        for second, first in self._ids.items():
            data = data.replace(second, first)
        return b"event: %b\ndata: %b\n\n" % (place[0].encode(), data)


def _place(content: dict[str, Any]) -> tuple[str, Any, Any]:
    """Its type, item, and part of the item."""
    part = content.get("content_index", content.get("summary_index"))
    return content["type"], content.get("output_index"), part


def _ids_in(content: dict[str, Any]) -> dict[Any, str]:
    """By what they are of: the response, or an item and the id's field."""
    found: dict[Any, str] = {}
    response, item, index = content.get("response"), content.get("item"), content.get("output_index")
    items: list[tuple[Any, dict[str, Any]]] = []
    if isinstance(response, dict):
        found["response"] = response["id"]
        items += enumerate(response.get("output") or ())
    if isinstance(item, dict):
        items.append((index, item))
    for place, each in items:
        found |= {(place, name): each[name] for name in _ITEM_IDS if isinstance(each.get(name), str)}
    if isinstance(item_id := content.get("item_id"), str):
        found[index, "id"] = item_id
    return found
