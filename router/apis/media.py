"""Parts of a prompt that are no text: pictures, sounds, videos, files. Each stands for itself by the hash of its
content, written as long as such a part weighs in a prompt, so that blocks stay as long as the caches' are."""

from collections.abc import Sized
from typing import Any

from xxhash import xxh3_128_hexdigest

from dualmap.router.apis.spelling import BYTES_PER_BLOCK_TOKEN, FIELD, PART, in_order
from dualmap.router.tokens.token_ratio import MEDIA_TOKENS

# Also the names of the fields that hold them, by which vLLM knows a part that says no type.
_MEDIA_FIELDS = {
    "image_url": "image",
    "image_pil": "image",
    "image_embeds": "image",
    "input_audio": "audio",
    "audio_url": "audio",
    "audio_embeds": "audio",
    "video_url": "video",
    "video_embeds": "video",
    "prompt_embeds": "file",
}
_MEDIA_KINDS = _MEDIA_FIELDS | {
    "input_image": "image",
    "image": "image",
    "image_generation_call": "image",
    "audio": "audio",
    "video": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
}
_CONTENT_KEYS = ("url", "data", "image_url", "file_data", "file_id", "file_url", "source", "result")  # where it may be

MAX_PARTS = 10_000  # a body could hold millions
# Of what stands for all media of a prompt: 512 pictures. A name of a dozen bytes stands for kilobytes.
MAX_STANDING_BYTES = 2 << 20


class Media:
    """Counts the parts of a prompt that are no text. counts: by kind. size_bytes: of what stands for them. parts_left:
    how many parts of the whole prompt are still looked at one by one."""

    __slots__ = ("counts", "parts_left", "size_bytes")

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.size_bytes = 0
        self.parts_left = MAX_PARTS

    def takes(self, parts: Sized) -> bool:
        """Whether all of these are looked at one by one."""
        self.parts_left -= len(parts)
        return self.parts_left >= 0

    def add(self, kind: str, content: str) -> str:
        """content: what tells it from others: its data or its address. Returns what stands for it."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        digest = xxh3_128_hexdigest(content.encode("utf-8", "surrogatepass"))
        stands = digest
        if self.size_bytes < MAX_STANDING_BYTES:
            stands *= int(MEDIA_TOKENS[kind]) * BYTES_PER_BLOCK_TOKEN // len(digest)
        self.size_bytes += len(stands)
        return f"{PART}{kind}{FIELD}{stands}"


def media_text(part: dict[str, Any], media: Media) -> str:
    """What stands for a picture, a sound, a video or a file; empty where the part is none."""
    kind = part.get("type")
    if type(kind) is not str or kind not in _MEDIA_KINDS:
        kind = next((field for field in _MEDIA_FIELDS if field in part), None)
        if kind is None:
            return ""
    return media.add(_MEDIA_KINDS[kind], _media_content(part, kind))


def _media_content(part: dict[str, Any], kind: str) -> str:
    """The name by which the server knows it, else its data without what is written in front of them, or its address."""
    uuid = part.get("uuid")
    if type(uuid) is str:
        return uuid
    value: Any = part.get(kind)
    if value is None:
        value = part
    while isinstance(value, dict):
        inner = next((value[key] for key in _CONTENT_KEYS if value.get(key) is not None), None)
        if inner is None:
            break
        value = inner
    if type(value) is not str:
        return in_order(value)
    return value.partition(",")[2] if value.startswith("data:") else value
