"""OpenAI's responses that are made again, after any of their events."""

import json
from typing import Any

import pytest

from dualmap.router.apis.replayed import DiffersError
from dualmap.router.apis.replayed_responses import ReplayedResponse

CALL = {"type": "function_call", "id": "ITEM", "call_id": "CALL", "name": "w"}
TEXT = {"item_id": "MESSAGE", "output_index": 0, "content_index": 0}
WHOLE = {"id": "RESPONSE", "output": [{"id": "MESSAGE"}, CALL | {"arguments": '{"a":1}'}]}
EVENTS: list[dict[str, Any]] = [
    {"type": "response.created", "response": {"id": "RESPONSE", "output": []}},
    {"type": "response.in_progress", "response": {"id": "RESPONSE", "output": []}},
    {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "id": "MESSAGE"}},
    {"type": "response.content_part.added", **TEXT, "part": {"text": ""}},
    {"type": "response.output_text.delta", **TEXT, "delta": "one "},
    {"type": "response.output_text.delta", **TEXT, "delta": "two"},
    {"type": "response.output_text.done", **TEXT, "text": "one two"},
    {"type": "response.content_part.done", **TEXT, "part": {"text": "one two"}},
    {"type": "response.output_item.done", "output_index": 0, "item": {"type": "message", "id": "MESSAGE"}},
    {"type": "response.output_item.added", "output_index": 1, "item": CALL},
    {"type": "response.function_call_arguments.delta", "output_index": 1, "item_id": "ITEM", "delta": '{"a":'},
    {"type": "response.function_call_arguments.delta", "output_index": 1, "item_id": "ITEM", "delta": "1}"},
    {"type": "response.output_item.done", "output_index": 1, "item": CALL | {"arguments": '{"a":1}'}},
    {"type": "response.completed", "response": WHOLE},
]


def events(number: int) -> list[bytes]:
    """Of a response with ids and a time of its own."""
    named = json.dumps(EVENTS)
    for name in ("RESPONSE", "MESSAGE", "ITEM", "CALL"):
        named = named.replace(f'"{name}"', f'"{name}-{number}"')
    made = []
    for place, event in enumerate(json.loads(named)):
        if "response" in event:
            event["response"]["created_at"] = number
        data = json.dumps(event | {"sequence_number": place}, separators=(",", ":"))
        made.append(f"event: {event['type']}\ndata: {data}\n\n".encode())
    return made


@pytest.mark.parametrize("cut", range(1, len(EVENTS) + 1))
def test_the_second_response_goes_on_behind_what_the_client_has(cut):
    replayed = ReplayedResponse()
    for event in events(0)[:cut]:
        replayed.note(event)
    shown = [rest for rest in map(replayed.show, events(1)) if rest]
    assert replayed.is_over
    # What the client has seen of an item bears the first one's ids: items that began later have their own.
    expected = b"".join(events(0)[cut:])
    if cut < 10:
        expected = expected.replace(b"ITEM-0", b"ITEM-1").replace(b"CALL-0", b"CALL-1")
    if cut < 3:
        expected = expected.replace(b"MESSAGE-0", b"MESSAGE-1")
    assert b"".join(shown) == expected


def test_another_text_is_not_taken_for_the_same():
    replayed = ReplayedResponse()
    for event in events(0)[:6]:
        replayed.note(event)
    other = [event.replace(b"one ", b"two ") for event in events(1)]
    with pytest.raises(DiffersError):
        _ = [replayed.show(event) for event in other]
