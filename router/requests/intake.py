"""What a request's head and body say of it: whose it is, how long its client waits, and its prompt."""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from math import isfinite
from secrets import token_bytes

from xxhash import xxh3_64_intdigest

from dualmap.router.apis.api import Api
from dualmap.router.apis.body_fields import salt_of
from dualmap.router.apis.json_body import is_reread, may_be_object
from dualmap.router.apis.named_model import hides_model, read_model
from dualmap.router.apis.read_body import UNASKED, UNWANTED, ReadBody, Scope
from dualmap.router.apis.rename_model import rename_model
from dualmap.router.apis.spelling import BYTES_PER_BLOCK_TOKEN
from dualmap.router.apis.token_ids import ASK_FOR_IDS
from dualmap.router.http.credentials import CREDENTIAL_FIELDS, credentials
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request
from dualmap.router.requests.asked import Arrived, Prompt
from dualmap.router.tokens.token_ratio import PRIOR_BYTES_PER_TOKEN, TokenRatio

TTFT_SLO_HEADERS = (b"x-dualmap-ttft-slo-ms", b"x-llm-d-slo-ttft-ms")  # the first one present counts
TPOT_SLO_HEADERS = (b"x-dualmap-tpot-slo-ms", b"x-llm-d-slo-tpot-ms")
TIMEOUT_HEADERS = (b"x-dualmap-timeout-ms",)
_TIME_HEADERS = frozenset(TTFT_SLO_HEADERS + TPOT_SLO_HEADERS + TIMEOUT_HEADERS)
PRIORITY_HEADER = b"x-vllm-priority"
TENANT_HEADER = b"x-dualmap-tenant"
# The first one that says something counts.
SESSION_HEADERS = (
    b"x-claude-code-session-id",
    b"x-session-affinity",
    b"session-id",
    b"session_id",
    b"x-dynamo-session-id",
    b"x-session-id",
    b"x-session-token",
)
WIDER_HEADERS = (b"x-correlation-id", b"x-user-id")  # of sessions to some clients; they count after what the body says
_SESSION_HEADERS = frozenset(SESSION_HEADERS + WIDER_HEADERS)
READ_HEADERS = _TIME_HEADERS | _SESSION_HEADERS | {PRIORITY_HEADER, TENANT_HEADER} | CREDENTIAL_FIELDS
NO_ALIASES: Mapping[str, str] = {}
MAX_TENANT_BYTES = 128
MAX_PRIORITY = 100  # either way: beyond, all are alike, since each level costs those behind it time
_KEY_SALT = token_bytes(16)  # of this process: what journals hold of a key cannot be tried out elsewhere
USAGE_OPTION = b'"stream_options":{"include_usage":true},'
MAX_REPLAYED_BYTES = 1024 * 1024  # of a body that is kept until its answer is over
MAX_UNREAD_TOKENS = 8192  # a body that is not read may be audio or a batch: it must not pass for a giant prompt


def read_prompt(
    arrived: Arrived,
    scope: Scope,
    ratio: TokenRatio,
    ask_for_usage: bool,
    aliases: Mapping[str, str] = NO_ALIASES,
    *,
    ask_for_ids: bool = False,
    by_text: bool = False,
) -> Prompt:
    """Read what the core needs of the body. aliases: names of clients', and what instances call the model. ask_for_ids:
    instances are asked for the token ids of streams. by_text: see Admission. Raises RequestRefusedError (400)."""
    api, body, http = arrived.api, arrived.body, arrived.http
    read = api.read(http, body, scope)
    if not (read.understood or read.model or read.media):
        named = read_model(http, body, scope)
        read = replace(read, legible=named.legible, model=named.model, media=named.media, text_bytes=named.text_bytes)
    model = read.model
    grant = arrived.grant
    if body and grant is not None and grant.key.models is not None and hides_model(http, body, model):
        message = "Which `model` the body is for cannot be read, and the API key is for some only: send plain UTF-8."
        raise RequestRefusedError(bad_request(message, "model"))
    asked_for = model or scope.default_model
    model = aliases.get(asked_for, asked_for) if aliases else asked_for
    if model != asked_for and body:
        body = rename_model(http, body, model)
    priority = read.priority
    if priority is None and PRIORITY_HEADER in http.fields:
        priority = _whole_number(http.fields[PRIORITY_HEADER])
    priority = max(-MAX_PRIORITY, min(MAX_PRIORITY, priority)) if priority else 0
    if not read.understood:
        # Where vLLM finds no JSON, it says in its error where: the body has to be the one that the client knows.
        if scope.apart and api.takes_salt and (not is_reread(body) or may_be_object(body)):
            body = _with_salt(body, salt_of(None, scope))
        tokens = int(len(body) / PRIOR_BYTES_PER_TOKEN)
        if read.media:
            tokens = ratio.prompt_tokens(model, read.text_bytes, read.media)
        tokens = max(1, min(tokens, MAX_UNREAD_TOKENS))
        return Prompt(body=body, tokens=tokens, read=read, model=model, named=asked_for, priority=priority)
    if scope.apart and api.takes_salt:
        body = _with_salt(body, read.cache_salt)
    hides_usage = records_ids = hides_ids = may_replay = may_go_by_text = False
    if read.stream:
        hides_usage = ask_for_usage and api.asks_usage and not read.stream_options
        records_ids = ask_for_ids and api.rest is not None and read.ids is not UNWANTED and not read.media
        hides_ids = records_ids and read.ids is UNASKED
        if hides_ids:
            body = _asking_for(USAGE_OPTION + ASK_FOR_IDS if hides_usage else ASK_FOR_IDS, body)
        elif hides_usage:
            body = _asking_for(USAGE_OPTION, body)
        may_replay = ask_for_ids and read.repeats and _may_replay(api, read, body)
        may_go_by_text = by_text and api.by_text is not None and not read.media
    tokens = read.prompt_tokens or ratio.prompt_tokens(model, read.text_bytes, read.media)
    block_tokens = 0
    if hashed_bytes := read.hashed_bytes:
        block_tokens = round(tokens * scope.block_tokens * BYTES_PER_BLOCK_TOKEN / hashed_bytes) or 1
    return Prompt(
        body=body,
        tokens=tokens,
        read=read,
        model=model,
        named=asked_for,
        block_tokens=block_tokens,
        priority=priority,
        hides_usage=hides_usage,
        records_ids=records_ids,
        hides_ids=hides_ids,
        may_replay=may_replay,
        by_text=may_go_by_text,
    )


def _may_replay(api: Api, read: ReadBody, body: bytes) -> bool:
    """What an instance keeps of its answer is gone with it: the client could not go on from there."""
    return api.replayed is not None and not (api.makes_state and read.stored) and len(body) <= MAX_REPLAYED_BYTES


def _whole_number(value: bytes) -> int | None:
    """As 7 or 7.0; None where it is another thing, which the instance refuses."""
    try:
        return int(float(value))
    except (ValueError, OverflowError):
        return None


def _asking_for(options: bytes, body: bytes) -> bytes:
    """The body of a stream's request, an object with fields, and more of them in front."""
    brace = body.index(b"{") + 1
    return b"".join((body[:brace], options, memoryview(body)[brace:]))


def _with_salt(body: bytes, cache_salt: str) -> bytes:
    """The body, and one field more at its end, where the field wins over one of the client's. What is no JSON object
    stays as it is: its instance refuses it, or it has no prompt."""
    if not body.lstrip().startswith(b"{"):
        return body
    before, brace, after = body.rpartition(b"}")
    comma = b"" if before.strip() in (b"{", b"") else b","
    return b'%b%b"cache_salt":"%b"%b%b' % (before, comma, cache_salt.encode(), brace, after) if brace else body


def read_times(http: HttpRequest) -> tuple[float | None, float | None, float | None]:
    """Objectives for the time to the first token and for that per token, and how long the client waits, in seconds;
    None where it does not say. Raises RequestRefusedError (400)."""
    if _TIME_HEADERS.isdisjoint(http.fields):  # as most are
        return None, None, None
    return (
        read_seconds(http, TTFT_SLO_HEADERS),
        read_seconds(http, TPOT_SLO_HEADERS),
        read_seconds(http, TIMEOUT_HEADERS),
    )


def read_seconds(http: HttpRequest, names: tuple[bytes, ...]) -> float | None:
    """The first of these headers that is there, which gives milliseconds. Raises RequestRefusedError (400)."""
    for name in names:
        value = http.fields.get(name)
        if value is not None:
            try:
                value_ms = float(value)
            except ValueError:
                value_ms = 0.0
            if not (isfinite(value_ms) and value_ms > 0.0):
                field = name.decode()
                raise RequestRefusedError(bad_request(f"`{field}` must be a number of milliseconds above 0.", field))
            return value_ms / 1000.0
    return None


def read_session(arrived: Arrived, named: str) -> int:
    """Hash of what the client calls its session, in a header or else in its body; 0 where it does not."""
    fields = arrived.http.fields
    has_header = not _SESSION_HEADERS.isdisjoint(fields)
    if not (has_header or named):  # as most
        return 0
    name = named.encode("utf-8", "surrogatepass")
    if has_header:
        name = _first_of(fields, SESSION_HEADERS) or name or _first_of(fields, WIDER_HEADERS)
    return xxh3_64_intdigest(name) if name else 0


def _first_of(fields: Mapping[bytes, bytes], names: tuple[bytes, ...]) -> bytes:
    """The first of these that says something; empty where none does."""
    return next((fields[name] for name in names if fields.get(name)), b"")


def read_tenant(arrived: Arrived) -> str:
    """The tenant of the request's API key. Where no keys are asked for, or the key is one for many tenants: as its
    header says, else whoever has the same key, which itself is kept nowhere; empty without either. Raises
    RequestRefusedError (400)."""
    if arrived.grant is not None and arrived.grant.key.tenant is not None:
        return arrived.grant.key.tenant
    fields = arrived.http.fields
    named = fields.get(TENANT_HEADER)
    if named:
        if len(named) > MAX_TENANT_BYTES:
            field = TENANT_HEADER.decode()
            raise RequestRefusedError(bad_request(f"`{field}` must have at most {MAX_TENANT_BYTES} bytes.", field))
        return named.decode("latin-1")
    if arrived.grant is not None:
        key = arrived.grant.key.sha256.encode()
    elif keys := credentials(fields):
        key = keys[0]
    else:
        return ""
    return "key-" + blake2b(_KEY_SALT + key, digest_size=8).hexdigest()


def session_tenant(session: int) -> str:
    """Where nobody says whose requests these are, sessions share the queue fairly. session: not 0."""
    return f"session-{session:016x}"
