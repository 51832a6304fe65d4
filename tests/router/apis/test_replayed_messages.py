"""Anthropic's messages that are made again, after any of their events."""

import json
from typing import Any

import pytest

from dualmap.router.apis.replayed import DiffersError
from dualmap.router.apis.replayed_messages import ReplayedMessage

EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"id": "ID"}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Let me "}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "see."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "abc"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "CALL", "name": "w"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 6}},
    {"type": "message_stop"},
]


def events(number: int) -> list[bytes]:
    """Of an answer with ids of its own."""
    named = json.loads(json.dumps(EVENTS).replace('"ID"', f'"m-{number}"').replace('"CALL"', f'"call-{number}"'))
    return [f"event: {e['type']}\ndata: {json.dumps(e, separators=(',', ':'))}\n\n".encode() for e in named]


@pytest.mark.parametrize("cut", range(1, len(EVENTS) + 1))
def test_the_second_message_goes_on_behind_what_the_client_has(cut):
    replayed = ReplayedMessage()
    for event in events(0)[:cut]:
        replayed.note(event)
    rest = b"".join(map(replayed.show, events(1)))
    assert rest == b"".join(events(1)[cut:])
    assert replayed.is_over


def test_part_of_an_events_text_is_left_out():
    replayed = ReplayedMessage()
    for event in events(0)[:3]:
        replayed.note(event)
    whole = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Let me see."}}
    for event in events(1)[:2]:
        assert not replayed.show(event)
    shown = replayed.show(b"event: content_block_delta\ndata: " + json.dumps(whole).encode() + b"\n\n")
    assert json.loads(shown.split(b"data: ")[1])["delta"] == {"type": "thinking_delta", "thinking": "see."}


@pytest.mark.parametrize("text", ["Let us ", "Let me wait"])
def test_other_words_are_not_taken_for_the_same(text):
    replayed = ReplayedMessage()
    for event in events(0)[:4]:
        replayed.note(event)
    other = {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": text}}
    with pytest.raises(DiffersError):
        replayed.show(b"data: " + json.dumps(other).encode() + b"\n\n")


def test_a_block_that_ends_sooner_is_another_one():
    replayed = ReplayedMessage()
    for event in events(0)[:4]:
        replayed.note(event)
    for event in events(1)[:3]:
        assert not replayed.show(event)
    with pytest.raises(DiffersError):
        replayed.show(events(1)[5])
