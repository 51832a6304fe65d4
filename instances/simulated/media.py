"""Pictures, sound, films and files in a prompt: so many tokens each, whatever their size, known by their content."""

from typing import Any, NamedTuple

import msgspec
from xxhash import xxh3_128_digest

TOKEN_BYTES = 4
PART_KINDS = {  # type of a content part -> kind of its content
    "image_url": "image",
    "input_image": "image",
    "image": "image",
    "audio_url": "audio",
    "input_audio": "audio",
    "video_url": "video",
    "input_video": "video",
    "file": "file",
    "input_file": "file",
    "document": "file",
}
_CONTENT_FIELDS = ("url", "data", "file_data", "file_url", "file_id")


class MediaTokens(NamedTuple):
    """Tokens of one part, by its kind. The defaults are those of Qwen2.5-VL and Qwen2-Audio for common sizes."""

    image: int = 1_369  # 1036 x 1036 pixels, a token for each 28 x 28
    audio: int = 750  # 30 s, 25 tokens a second
    video: int = 3_136  # 16 s, 2 frames a second of 392 x 392 pixels, two frames together
    file: int = 3_000  # a PDF of four pages


class Media(NamedTuple):
    """kind: a field of MediaTokens. digest: 16 bytes; equal contents have equal ones."""

    kind: str
    digest: bytes

    def packed(self, tokens: int) -> bytes:
        """So many tokens of a prompt that are equal wherever the content is."""
        return self.digest * (tokens * TOKEN_BYTES // len(self.digest)) + self.digest[: tokens * TOKEN_BYTES % 16]


def read_media(part_type: str, part: dict[str, Any]) -> Media | None:
    """The medium of a content part of any API; None if it is of no known type."""
    kind = PART_KINDS.get(part_type)
    return None if kind is None else Media(kind, xxh3_128_digest(kind.encode() + _content(part_type, part)))


def _content(part_type: str, part: dict[str, Any]) -> bytes:
    """What makes the part this one. A data URL is as good as its data; what lies behind another URL is not fetched."""
    holder = part.get(part_type) or part.get("image_url") or part.get("source") or part
    if isinstance(holder, dict):
        holder = next((holder[name] for name in _CONTENT_FIELDS if holder.get(name)), holder)
    if not isinstance(holder, str):
        return msgspec.json.encode(holder)
    if holder.startswith("data:"):
        holder = holder.partition(",")[2]
    return holder.encode()
