"""What the gateway reads of a generation request's body. The prompt stays raw bytes: neither decoded nor tokenised."""

from functools import lru_cache
from hashlib import sha256

import msgspec
from msgspec import Raw

from dualmap.router.http.openai_errors import RequestRefusedError, bad_request
from dualmap.scheduler.blocks import hash_text, root_hash

BYTES_PER_BLOCK_TOKEN = 4  # fixed, whatever ratio is learned: block boundaries must never shift
OPENING_MESSAGES = 16  # where the first user message is looked for; a system prompt is one or two messages
ROLE_BYTES = 64  # a message's role stands within so many bytes of its start or end


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    stream: bool | None = None
    stream_options: Raw = Raw(b"")
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    priority: int | None = None
    cache_salt: str | None = None
    messages: list[Raw] | None = None
    prompt: Raw = Raw(b"")
    tools: Raw = Raw(b"")


class _Model(msgspec.Struct, gc=False):
    model: str = ""


_decode_model = msgspec.json.Decoder(_Model).decode
_decode = msgspec.json.Decoder(_Body).decode


class Peeked(msgspec.Struct, gc=False):
    """stream_options: the client said something of them. blocks: see scheduler.blocks. prompt_bytes: length of what
    will be prompt, tools included. prompt_tokens: its exact length where the prompt is token ids, else 0.
    max_output_tokens: 0 where the client did not say. cache_salt: the client's, or one of the tenant's own."""

    model: str
    stream: bool
    stream_options: bool
    max_output_tokens: int
    priority: int
    blocks: tuple[int, ...]
    prompt_bytes: int
    prompt_tokens: int
    cache_salt: str


def peek_chat(body: bytes, block_tokens: int, tenant: str = "") -> Peeked:
    """tenant: shares no prefix with any other; empty: with all who have none. Raises RequestRefusedError (400) naming
    what is wrong with the body."""
    fields = _read(body)
    if fields.messages is None:
        raise RequestRefusedError(bad_request("`messages` is missing.", "messages"))
    if not fields.messages:
        raise RequestRefusedError(bad_request("`messages` is empty.", "messages"))
    text = b"".join(fields.messages)
    return _peeked(fields, text, _opening_bytes(fields.messages, text), 0, block_tokens, tenant)


def peek_completion(body: bytes, block_tokens: int, tenant: str = "") -> Peeked:
    """As peek_chat."""
    fields = _read(body)
    raw = bytes(fields.prompt)
    first = raw[:1]
    if not raw or raw == b"null":
        raise RequestRefusedError(bad_request("`prompt` is missing.", "prompt"))
    if first not in (b'"', b"["):
        raise RequestRefusedError(bad_request("`prompt` must be a string or a list.", "prompt"))
    text = raw[1:-1].strip()  # without its quotes or brackets, which stand elsewhere in a longer prompt
    if not text:
        raise RequestRefusedError(bad_request("`prompt` is empty.", "prompt"))
    prompt_tokens = text.count(b",") + 1 if first == b"[" and text[:1] not in b'"' else 0
    return _peeked(fields, text, 0, prompt_tokens, block_tokens, tenant)


def peek_model(body: bytes) -> str:
    """Of a request that is passed through; empty where the body is no JSON object that names one."""
    try:
        return _decode_model(body).model
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _read(body: bytes) -> _Body:
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        what = str(error)
        _, _, path = what.rpartition("`$.")
        param = path.rstrip("`").partition("[")[0] if "`$." in what else None
        raise RequestRefusedError(bad_request(f"The body is not a valid request: {what}.", param)) from None
    except RecursionError:
        raise RequestRefusedError(bad_request("The body is nested too deeply.")) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestRefusedError(bad_request(f"The body is not valid JSON: {error}.")) from None


def _opening_bytes(messages: list[Raw], text: bytes) -> int:
    """Length of the messages up to and including the first of the user; 0 where there is none among the first few.
    text: the messages joined.

    In raw JSON `"user"` cannot stand inside a text, whose quotes are escaped, so it is the role (or as short a value).
    """
    start = 0
    for raw in messages[:OPENING_MESSAGES]:
        end = start + len(raw)
        if text.find(b'"user"', start, min(start + ROLE_BYTES, end)) >= 0:
            return end
        if text.find(b'"user"', max(start, end - ROLE_BYTES), end) >= 0:
            return end
        start = end
    return 0


@lru_cache(maxsize=256)
def _plain_root(model: str) -> int:
    """The root of prompts without salt and tools, which most are."""
    return root_hash(model.encode(), b"", b"")


def _salt_of(tenant: str, cache_salt: str) -> str:
    """What two tenants cannot have in common, whatever salts they choose."""
    return sha256(f"{len(tenant)} {tenant} {cache_salt}".encode()).hexdigest()


def _peeked(
    fields: _Body, text: bytes, opening_bytes: int, prompt_tokens: int, block_tokens: int, tenant: str
) -> Peeked:
    model = fields.model
    if not model:
        raise RequestRefusedError(bad_request("`model` is missing.", "model"))
    tools = bytes(fields.tools)
    cache_salt = fields.cache_salt or ""
    if tenant:
        cache_salt = _salt_of(tenant, cache_salt)
    if tools or cache_salt:
        parent = root_hash(model.encode(), cache_salt.encode(), tools)
    else:
        parent = _plain_root(model)
    max_output_tokens = fields.max_completion_tokens or fields.max_tokens or 0
    return Peeked(
        model,
        fields.stream or False,
        bool(bytes(fields.stream_options)),
        max(0, max_output_tokens),
        fields.priority or 0,
        hash_text(text, block_tokens * BYTES_PER_BLOCK_TOKEN, boundaries=(opening_bytes,), parent=parent),
        len(text) + len(tools),
        prompt_tokens,
        cache_salt,
    )
