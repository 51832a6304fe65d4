"""A message's content in one spelling. Equal prompts are equal here however their JSON was written: the order of keys,
spaces, escapes, a text or a list of one text part; and over whichever API they came."""

from typing import Any

from dualmap.router.apis.media import Media, media_text
from dualmap.router.apis.spelling import PART, in_order
from dualmap.router.tokens.token_ratio import MEDIA_TOKENS

BILLING_HEADER = "x-anthropic-billing-header"  # changes with every request of Claude Code, so vLLM drops its line
SYSTEM_ROLES = ("system", "developer")
ROLES = {"developer": "system"}  # few templates know a developer: to all others vLLM says that it is the system

_TEXT_KEYS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "reasoning_text": "text",
    "summary_text": "text",
}
# What no model reads: for the server's cache of prompts, or sealed for whoever made it.
_LEFT_OUT = frozenset({"cache_control", "encrypted_content", "signature"})
MAX_DEPTH = 8  # of what is looked through for media


def content_text(content: Any, media: Media, *, is_system: bool = False) -> str:
    """A message's content: a text, a list of parts or nothing. is_system: a line that changes with every request of
    some client is left out, as vLLM does."""
    if type(content) is str:
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        return other_text(content, media)
    if not media.takes(content):
        return in_order(content)
    texts = [part_text(part, media) for part in content]
    if is_system:
        texts = [text.partition("\n")[2] if text.startswith(BILLING_HEADER) else text for text in texts]
    return "\n".join(text for text in texts if text)


def part_text(part: Any, media: Media) -> str:
    """One part of a message's content."""
    if type(part) is str:
        return part
    if not isinstance(part, dict):
        return in_order(part)
    kind = part.get("type")
    if type(kind) is str:
        if kind in _TEXT_KEYS:
            text = part.get(_TEXT_KEYS[kind])
            return text if type(text) is str else ""
        if kind == "redacted_thinking":
            return ""
        if kind == "document" and (content := _document_text(part.get("source"), media)) is not None:
            return content
    return media_text(part, media) or PART + other_text(part, media)


def other_text(value: Any, media: Media) -> str:
    """What is known to be neither a text nor a medium, though media may stand in it."""
    return in_order(_spelled(value, media, 0))


def _document_text(source: Any, media: Media) -> str | None:
    """A document that is written out; None where it is a file."""
    if not isinstance(source, dict):
        return None
    if source.get("type") == "text" and type(source.get("data")) is str:
        return str(source["data"])
    return content_text(source.get("content"), media) if source.get("type") == "content" else None


def _spelled(value: Any, media: Media, depth: int) -> Any:
    """The value with what stands for its media in their place, and without what no model reads."""
    if type(value) is str:
        if not value.startswith("data:"):
            return value
        kind = value[5 : value.find("/")]
        return media.add(kind if kind in MEDIA_TOKENS else "file", value.partition(",")[2])
    if depth == MAX_DEPTH or not isinstance(value, list | dict) or not media.takes(value):
        return value
    if isinstance(value, list):
        return [_spelled(each, media, depth + 1) for each in value]
    if depth and (stands := media_text(value, media)):
        return stands
    return {key: _spelled(each, media, depth + 1) for key, each in value.items() if key not in _LEFT_OUT}
