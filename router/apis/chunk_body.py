"""What is read of a chunk in OpenAI's API, or of a whole answer."""

from typing import Any

import msgspec
from msgspec import Raw


class Choice(msgspec.Struct, gc=False):
    delta: dict[str, Any] | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct, gc=False):
    choices: list[Choice] | None = None
    usage: Raw = Raw(b"")
    error: Raw = Raw(b"")
    object: str = ""


decode_chunk = msgspec.json.Decoder(Chunk).decode
