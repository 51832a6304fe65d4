"""What of a prompt is no text: pictures, sounds, videos, files, and what is sealed (prompt_text.py)."""

from typing import Any

import pytest

from dualmap.router.apis.media import MAX_PARTS
from dualmap.router.apis.messages import MESSAGES
from dualmap.router.apis.named_model import read_model
from dualmap.router.apis.read_body import ReadBody, Scope
from dualmap.router.apis.responses import RESPONSES
from dualmap.router.http.http_request import HttpRequest
from tests.router.apis.test_prompt_text import chat, read, said


def parts_of(body: bytes, content_type: str = "") -> tuple[str, dict[str, int], int]:
    http = HttpRequest(0.0)
    http.forwarded = [f"Content-Type: {content_type}\r\n".encode()]
    one = read_model(http, body, Scope(16))
    return one.model, dict(one.media), one.text_bytes


def test_what_is_not_read_counts_its_files_as_parts_too():
    file = (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\nContent-Type: %b\r\n\r\n' + b"A" * 100_000
    )
    model = b'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\ntiny'
    form = b"\r\n".join([file % b"audio/wav", model, file % b"image/png", file % b"application/pdf", b"--b--"])
    for content_type in ("", 'multipart/form-data; boundary="b"'):
        name, media, text_bytes = parts_of(form, content_type)
        assert (name, media) == ("tiny", {"audio": 1, "image": 1, "file": 1})
        assert text_bytes < 20
    for url in (PNG, PNG.replace("/", "\\/")):
        body = f'{{"model":"tiny","input":[{{"image":"{url}"}},{{"image":"{url}"}}]}}'.encode()
        name, media, text_bytes = parts_of(body)
        assert (name, media) == ("tiny", {"image": 2})
        assert text_bytes < 100


def picture(data: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}", **more}}


def test_a_picture_counts_as_a_part_not_as_its_bytes():
    one = chat(said("user", [{"type": "text", "text": "Look."}, picture("A" * 1_000_000)]))
    assert one.media == {"image": 1}
    assert one.text_bytes < 50
    assert len(one.blocks) < 100


def test_pictures_are_told_apart_by_their_content_over_every_api():
    text = {"type": "text", "text": "Look."}
    over_chat = chat(said("user", [text, picture("AAAA", detail="high")]))
    assert over_chat.blocks != chat(said("user", [text, picture("BBBB")])).blocks
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    over_messages = read(MESSAGES, {"model": "tiny", "messages": [said("user", [text, image])]})
    parts = [
        {"type": "input_text", "text": "Look."},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
    ]
    over_responses = read(RESPONSES, {"model": "tiny", "input": [said("user", parts)]})
    assert over_chat.blocks == over_messages.blocks == over_responses.blocks
    assert over_messages.media == over_responses.media == {"image": 1}


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "audio"),
        ({"type": "audio_url", "audio_url": {"url": "http://files.example/a.wav"}}, "audio"),
        ({"type": "video_url", "video_url": {"url": "http://files.example/a.mp4"}}, "video"),
        ({"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}}, "file"),
        ({"type": "image_url", "image_url": "http://files.example/a.png"}, "image"),
        ({"type": "image_url", "image_url": None, "uuid": "u1"}, "image"),
        ({"image_url": "data:image/png;base64,AAAA"}, "image"),
        ({"video_url": {"url": "http://files.example/a.mp4"}}, "video"),
        ({"type": "audio_embeds", "audio_embeds": "AAAA"}, "audio"),
        ({"type": "video", "video": ["data:image/png;base64,AAAA", "data:image/png;base64,BBBB"]}, "video"),
        ({"type": "prompt_embeds", "data": "AAAA"}, "file"),
        ({"type": "computer_screenshot", "image_url": "data:image/png;base64,AAAA"}, "image"),
        ({"type": "unheard_of", "here": [{"sound": "data:audio/wav;base64,AAAA"}]}, "audio"),
        ({"type": "unheard_of", "here": "data:application/pdf;base64,AAAA"}, "file"),
    ],
)
def test_other_media_count_by_their_kind(part, kind):
    one = chat(said("user", [part]))
    assert one.media == {kind: 1}
    assert one.text_bytes < 100


DATA = "A" * 100_000


PNG = f"data:image/png;base64,{DATA}"


@pytest.mark.parametrize(
    "item",
    [
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": PNG}},
        {"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": PNG}]},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": PNG}]},
        {"type": "image_generation_call", "id": "i", "result": DATA},
    ],
    ids=lambda item: item["type"],
)
def test_pictures_among_the_items_of_a_response_count_as_parts(item):
    one = read(RESPONSES, {"model": "tiny", "input": [said("user", "Look."), item]})
    assert one.media == {"image": 1}
    assert one.text_bytes < 200


@pytest.mark.parametrize(
    "more",
    [
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": DATA}]},
        {"input": [{"type": "compaction", "encrypted_content": DATA}]},
        {"messages": [said("assistant", [{"type": "redacted_thinking", "data": DATA}])]},
        {"messages": [said("assistant", [{"type": "thinking", "thinking": "So.", "signature": DATA}])]},
        {"messages": [said("assistant", [{"type": "web_search_result", "encrypted_content": DATA}])]},
    ],
)
def test_what_is_sealed_does_not_count(more):
    one = read(RESPONSES if "input" in more else MESSAGES, {"model": "tiny", **more})
    assert one.understood
    assert one.text_bytes < 200


def test_what_nobody_writes_by_hand_is_one_text_to_the_gateway():
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}] * (MAX_PARTS + 1)
    one = chat(said("user", parts))
    assert (one.understood, one.media) == (True, {})
    assert one.blocks != chat(said("user", [*parts[1:], {"type": "text", "text": "Look."}])).blocks


def test_a_document_that_is_written_out_is_text():
    def document(**source: Any) -> ReadBody:
        return read(MESSAGES, {"messages": [said("user", [{"type": "document", "source": source}])]})

    text = "Il était une fois. " * 1000
    plain = document(type="text", media_type="text/plain", data=text)
    assert (plain.text_bytes >= len(text), plain.media) == (True, {})
    assert document(type="content", content=[{"type": "text", "text": text}]).blocks == plain.blocks
    assert document(type="base64", media_type="application/pdf", data=DATA).media == {"file": 1}


def test_a_medium_that_its_client_names_is_known_by_that_name():
    def shown(url: str | None, uuid: str) -> ReadBody:
        return chat(said("user", [{"type": "image_url", "image_url": {"url": url}, "uuid": uuid}]))

    assert shown(PNG, "u1").blocks == shown(None, "u1").blocks != shown(None, "u2").blocks
