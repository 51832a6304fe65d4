"""A chat's prompt in one spelling: what its blocks are hashes of. Equal prompts are equal here however their JSON was
written: the order of keys, spaces, escapes, a text or a list of one text part; and over whichever API they came.

Pictures, audio, video and files stand for themselves by the hash of their content, written as long as such a part
weighs in a prompt, so that blocks stay as long as the caches' are.
"""

from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest, xxh3_128_digest, xxh3_128_hexdigest

from dualmap.router.apis.api import Scope
from dualmap.router.tokens.token_ratio import MEDIA_TOKENS
from dualmap.scheduler.blocks import hash_text, root_hash

BYTES_PER_BLOCK_TOKEN = 4  # fixed, whatever ratio is learned: block boundaries must never shift
# What others are likely to share ends in a block of its own, where that is at least so much of a block: a shorter one
# is not worth finding, and would make one crowd of all who begin with "You are a helpful assistant."
LEAST_OWN_BLOCK = 0.5
OPENING_MESSAGES = 16  # where the first user message is looked for; a system prompt is one or two messages
BILLING_HEADER = "x-anthropic-billing-header"  # changes with every request of Claude Code, so vLLM drops its line
SYSTEM_ROLES = ("system", "developer")
ROLES = {"developer": "system"}  # few templates know a developer: to all others vLLM says that it is the system
MAX_KNOWN_TOOLS = 256
PART, FIELD = "\x1d", "\x1f"  # JSON can spell these, but no prompt has a reason to

_TEXT_KEYS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
    "reasoning_text": "text",
    "summary_text": "text",
}
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
# What no model reads: for the server's cache of prompts, or sealed for whoever made it.
_LEFT_OUT = frozenset({"cache_control", "encrypted_content", "signature"})
MAX_DEPTH = 8  # of what is looked through for media
MAX_PARTS = 10_000  # of a message; more are not looked at one by one, since a body could hold millions
_known_tools: dict[tuple[int, int, bytes], tuple[tuple[int, ...], int, int]] = {}

Spelled = list[str]  # two for each message: its role, its content


def spell(messages: Spelled, role: str, content: str) -> None:
    """Add a message."""
    messages.append(role)
    messages.append(content)


class Media(msgspec.Struct, gc=False):
    """Counts the parts of a prompt that are no text. counts: by kind. size_bytes: of what stands for them."""

    counts: dict[str, int] = {}
    size_bytes: int = 0

    def add(self, kind: str, content: str) -> str:
        """content: what tells it from others: its data or its address. Returns what stands for it."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        digest = xxh3_128_hexdigest(content.encode("utf-8", "surrogatepass"))
        stands = digest * (int(MEDIA_TOKENS[kind]) * BYTES_PER_BLOCK_TOKEN // len(digest))
        self.size_bytes += len(stands)
        return f"{PART}{kind}{FIELD}{stands}"


def content_text(content: Any, media: Media, *, is_system: bool = False) -> str:
    """A message's content: a text, a list of parts or nothing. is_system: a line that changes with every request of
    some client is left out, as vLLM does."""
    if type(content) is str:
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        return other_text(content, media)
    if len(content) > MAX_PARTS:
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
    return _media_text(part, media) or PART + other_text(part, media)


def other_text(value: Any, media: Media) -> str:
    """What is known to be neither a text nor a medium, though media may stand in it."""
    return in_order(_spelled(value, media, 0))


def field_text(name: str, value: str) -> str:
    """What stands beside a message's content, behind it."""
    return f"{PART}{name}{FIELD}{value}"


def call_text(name: Any, arguments: Any, call_id: Any) -> str:
    """A call of a tool. arguments: JSON, or what that stands for."""
    if type(arguments) is str:
        with suppress(msgspec.DecodeError, RecursionError):
            arguments = msgspec.json.decode(arguments)
    return field_text("call", in_order([name, arguments, call_id]))


def in_order(value: Any) -> str:
    """JSON with sorted keys."""
    return msgspec.json.encode(value, order="sorted").decode()


def _document_text(source: Any, media: Media) -> str | None:
    """A document that is written out; None where it is a file."""
    if not isinstance(source, dict):
        return None
    if source.get("type") == "text" and type(source.get("data")) is str:
        return str(source["data"])
    return content_text(source.get("content"), media) if source.get("type") == "content" else None


def _media_text(part: dict[str, Any], media: Media) -> str:
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


def _spelled(value: Any, media: Media, depth: int) -> Any:
    """The value with what stands for its media in their place, and without what no model reads."""
    if type(value) is str:
        if not value.startswith("data:"):
            return value
        kind = value[5 : value.find("/")]
        return media.add(kind if kind in MEDIA_TOKENS else "file", value.partition(",")[2])
    if depth == MAX_DEPTH:
        return value
    if isinstance(value, list):
        return [_spelled(each, media, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    if depth and (stands := _media_text(value, media)):
        return stands
    return {key: _spelled(each, media, depth + 1) for key, each in value.items() if key not in _LEFT_OUT}


class ChatBlocks(msgspec.Struct, frozen=True, gc=False):
    """See ReadBody."""

    blocks: tuple[int, ...]
    text_bytes: int
    hashed_bytes: int


def chat_blocks(messages: Spelled, media: Media, tools: bytes, model: str, cache_salt: str, scope: Scope) -> ChatBlocks:
    """tools: JSON, empty where there are none.

    A block ends with the tools, with the system prompt and with the first message of the user, so that a chat has its
    key from the first turn on and keeps it as it grows.
    """
    block_bytes = scope.block_tokens * BYTES_PER_BLOCK_TOKEN
    parent = prompt_root(model, cache_salt)
    blocks: tuple[int, ...] = ()
    size = 0
    if tools:
        blocks, parent, size = _hash_tools(tools, block_bytes, parent)
    system, opening = _boundaries(messages)
    if system:
        text = _joined(messages[:system])
        size += len(text)
        shared, parent = _hash_shared(text, block_bytes, parent)
        blocks += shared
    if opening > system:
        text = _joined(messages[system:opening])
        size += len(text)
        blocks += hash_text(text, block_bytes, parent, whole=True)
        parent = blocks[-1]
    if opening < len(messages):
        text = _joined(messages[opening:])
        size += len(text)
        if len(text) >= block_bytes or not blocks:
            blocks += hash_text(text, block_bytes, parent)
    return ChatBlocks(blocks, size - media.size_bytes, size)


@lru_cache(maxsize=256)
def prompt_root(model: str, cache_salt: str) -> int:
    """The parent of a prompt's first block."""
    return root_hash(model.encode(), cache_salt.encode(), b"")


def _boundaries(messages: Spelled) -> tuple[int, int]:
    """How much of it is the system's, and how much comes up to and including the first message of the user; where that
    is not among the first few, both are the system's."""
    system = end = 0
    for role in messages[: 2 * OPENING_MESSAGES : 2]:
        end += 2
        if role == "user":
            return system, end
        if system == end - 2 and role in SYSTEM_ROLES:
            system = end
    return system, system


def _joined(pieces: Spelled) -> bytes:
    return FIELD.join(pieces).encode("utf-8", "surrogatepass")


def _hash_shared(text: bytes, block_bytes: int, parent: int) -> tuple[tuple[int, ...], int]:
    """Blocks of what many prompts begin with, and the parent of what follows. A rest that is too short for a block of
    its own is part of the parent alone."""
    end = len(text)
    rest = end % block_bytes
    if rest >= block_bytes * LEAST_OWN_BLOCK:
        blocks = hash_text(text, block_bytes, parent, whole=True)
        return blocks, blocks[-1]
    if rest == end:
        return (), xxh3_64_intdigest(text, parent)
    blocks = hash_text(text, block_bytes, parent)
    return blocks, xxh3_64_intdigest(text[end - rest :], blocks[-1])


def _hash_tools(tools: bytes, block_bytes: int, parent: int) -> tuple[tuple[int, ...], int, int]:
    """Their blocks, the parent of what follows, and their length in one spelling. An agent sends the same large ones
    with each request: they are kept as they are known."""
    known = (block_bytes, parent, xxh3_128_digest(tools))
    found = _known_tools.get(known)
    if found is None:
        try:
            text = _tools_text(msgspec.json.decode(tools))
        except (msgspec.DecodeError, RecursionError):
            text = tools
        found = (*_hash_shared(text, block_bytes, parent), len(text)) if text else ((), parent, 0)
        if len(_known_tools) >= MAX_KNOWN_TOOLS:
            _known_tools.pop(next(iter(_known_tools)))
        _known_tools[known] = found
    return found


def _tools_text(tools: Any) -> bytes:
    """Empty where there are none."""
    if not tools:
        return b""
    if isinstance(tools, list):
        tools = [_tool(tool) if isinstance(tool, dict) else tool for tool in tools]
    return msgspec.json.encode(tools, order="sorted")


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A function in one form for all APIs; what else a server has for a tool as it is."""
    function = tool.get("function")
    if isinstance(function, dict):
        tool = {"type": "function"} | function
    elif isinstance(schema := tool.get("input_schema"), dict):
        tool = {**tool, "input_schema": None, "type": "function", "parameters": {"type": "object"} | schema}
    return {key: value for key, value in tool.items() if value is not None and key != "cache_control"}
