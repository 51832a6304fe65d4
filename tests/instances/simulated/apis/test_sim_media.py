"""Pictures, sound, films and files in prompts: what they count, and what they share."""

from typing import Any

import pytest

from dualmap.instances.simulated.media import Media, MediaTokens

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
DATA = "QUJD" * 1000
COUNTS = MediaTokens()


def parts(*media: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(media)}]


def url(kind: str, data: str = DATA, media_type: str = "image/png") -> dict[str, Any]:
    return {"type": kind, kind: {"url": f"data:{media_type};base64,{data}"}}


def prompt_tokens(sim: Any, path: str, body: dict[str, Any]) -> int:
    length = {"max_output_tokens": 1} if path == RESPONSES else {"max_tokens": 1}
    status, answer = sim.post(path, {"model": "sim", **length, **body})
    assert status == 200, answer
    usage = answer["usage"]
    if path == MESSAGES:
        return usage["input_tokens"] + usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"]
    return usage["input_tokens"] if path == RESPONSES else usage["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "part", "kind"),
    [
        (CHAT, url("image_url"), "image"),
        (CHAT, {"type": "image_url", "image_url": {"url": "http://pictures/1.png"}}, "image"),
        (CHAT, {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}, "audio"),
        (CHAT, url("audio_url"), "audio"),
        (CHAT, url("video_url"), "video"),
        (CHAT, {"type": "file", "file": {"file_data": DATA, "filename": "a.pdf"}}, "file"),
        (RESPONSES, {"type": "input_image", "image_url": f"data:image/png;base64,{DATA}"}, "image"),
        (RESPONSES, {"type": "input_file", "file_data": DATA, "filename": "a.pdf"}, "file"),
        (MESSAGES, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}, "image"),
        (MESSAGES, {"type": "image", "source": {"type": "url", "url": "http://pictures/1.png"}}, "image"),
        (MESSAGES, {"type": "document", "source": {"type": "text", "data": DATA}}, "file"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else value,
)
def test_a_part_counts_by_its_kind_not_by_its_bytes(sim, path: str, part: dict[str, Any], kind: str) -> None:
    field = "input" if path == RESPONSES else "messages"
    nothing = prompt_tokens(sim, path, {field: [{"role": "user", "content": ""}]})
    assert prompt_tokens(sim, path, {field: parts(part)}) - nothing == getattr(COUNTS, kind)


def test_counts_can_be_set(start_sim) -> None:
    sim = start_sim("--image-tokens", "256", "--video-tokens", "1")
    _, answer = sim.post(
        CHAT, {"messages": parts(url("image_url"), url("image_url"), url("video_url")), "max_tokens": 1}
    )
    assert answer["usage"]["prompt_tokens_details"]["multimodal_tokens"] == {"image": 512, "video": 1}


def test_equal_pictures_share_blocks_and_others_do_not(sim) -> None:
    def cached(*media: dict[str, Any]) -> int:
        _, answer = sim.post(CHAT, {"messages": parts(*media, {"type": "text", "text": "What?"}), "max_tokens": 1})
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    sim.request("POST", "/reset_prefix_cache")
    assert cached(url("image_url")) == 0
    assert (
        cached(url("image_url", media_type="image/jpeg")) > COUNTS.image - 16
    )  # the data counts, not what it is called
    assert cached(url("image_url", data="QUJE" * 1000)) < 16
    assert cached(url("image_url"), url("image_url")) > COUNTS.image - 16
    assert cached(url("video_url")) < 16


@pytest.mark.parametrize("tokens", [1, 3, 4, 7, 1369])
def test_packed_media_have_four_bytes_a_token(tokens: int) -> None:
    assert len(Media("image", bytes(range(16))).packed(tokens)) == 4 * tokens
