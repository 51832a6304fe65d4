"""The blocks of a chat: hashes of its spelling, cut where what others share ends."""

from functools import lru_cache
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from dualmap.router.apis.body_fields import given, ids_of, repeats, salt_of, session_of, splits
from dualmap.router.apis.common_body import ChatBody
from dualmap.router.apis.media import Media
from dualmap.router.apis.prompt_text import SYSTEM_ROLES
from dualmap.router.apis.read_body import UNWANTED, ReadBody, Scope
from dualmap.router.apis.spelling import BYTES_PER_BLOCK_TOKEN, FIELD, Spelled
from dualmap.scheduler.blocks import hash_text, root_hash

# What others are likely to share ends in a block of its own, where that is at least so much of a block: a shorter one
# is not worth finding, and would make one crowd of all who begin with "You are a helpful assistant."
LEAST_OWN_BLOCK = 0.5
OPENING_MESSAGES = 16  # where the first user message is looked for; a system prompt is one or two messages
MAX_KNOWN_TOOLS = 256
_known_tools: dict[tuple[int, int, bytes], tuple[tuple[int, ...], int, int]] = {}


def read_as_chat(
    fields: ChatBody,
    messages: Spelled,
    media: Media,
    max_output_tokens: int | None,
    scope: Scope,
    *,
    session: str = "",
    state: str = "",
    stored: bool = True,
    whole: bool = False,
) -> ReadBody:
    """What the body of a chat says. messages, media: of its prompt. session: where the common fields name none. whole:
    one instance computes the prompt and answers, whatever the common fields say.

    A block ends with the tools, with the system prompt and with the first message of the user, so that a chat has its
    key from the first turn on and keeps it as it grows.
    """
    model, streams = fields.model or scope.default_model, fields.stream or False
    cache_salt = salt_of(fields.cache_salt, scope)
    block_bytes = scope.block_tokens * BYTES_PER_BLOCK_TOKEN
    same = scope.same_models
    parent = prompt_root(same.get(model, model) if same else model, cache_salt)
    blocks: tuple[int, ...] = ()
    size = 0
    if tools := given(fields.tools):
        blocks, parent, size = _hash_tools(tools, block_bytes, parent)
    system, opening = _boundaries(messages)
    if system:
        text = _joined(messages[:system])
        size += len(text)
        shared, parent = _hash_shared(text, block_bytes, parent)
        blocks += shared
    if opening > system:
        before, text = _apart(messages[system:opening], block_bytes)
        size += len(before) + len(text)
        blocks += hash_text(text, block_bytes, parent, whole=True, before=before)
        parent = blocks[-1]
    if opening < len(messages):
        text = _joined(messages[opening:])
        size += len(text)
        if len(text) >= block_bytes or not blocks:
            blocks += hash_text(text, block_bytes, parent)
    return ReadBody(
        model=model,
        blocks=blocks,
        text_bytes=size - media.size_bytes,
        media=media.counts,
        hashed_bytes=size,
        stream=streams,
        stream_options=fields.stream_options is not msgspec.UNSET,
        max_output_tokens=max(0, max_output_tokens) if max_output_tokens else 0,
        priority=fields.priority,
        cache_salt=cache_salt,
        session=session_of(fields) or session,
        ids=ids_of(fields) if streams else UNWANTED,
        repeats=streams and repeats(fields),
        state=state,
        stored=stored,
        splits=scope.splits and not (whole or media.counts) and splits(fields, max_output_tokens),
    )


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
    text = FIELD.join(pieces)
    try:
        return text.encode()
    except UnicodeEncodeError:  # halves of surrogate pairs stay what they are
        return text.encode("utf-8", "surrogatepass")


def _apart(pieces: Spelled, block_bytes: int) -> tuple[bytes, bytes]:
    """What stands before the last piece, where that is less than a block, and the rest: most often the role of a long
    message, which is not copied for it."""
    before = _joined([*pieces[:-1], ""])
    return (before, _joined(pieces[-1:])) if len(before) < block_bytes else (b"", _joined(pieces))


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
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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
