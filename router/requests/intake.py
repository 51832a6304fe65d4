"""What a request's head and body say of it: whose it is, how long its client waits, and its prompt."""

from hashlib import blake2b
from math import isfinite
from secrets import token_bytes

from dualmap.router.apis.peek import BYTES_PER_BLOCK_TOKEN, peek_chat, peek_completion
from dualmap.router.apis.routes import Route
from dualmap.router.http.credentials import credentials
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request
from dualmap.router.requests.asked import Arrived, Prompt
from dualmap.router.tokens.token_ratio import PRIOR_BYTES_PER_TOKEN, TokenRatio

TTFT_SLO_HEADERS = (b"x-dualmap-ttft-slo-ms", b"x-llm-d-slo-ttft-ms")  # the first one present counts
TPOT_SLO_HEADERS = (b"x-dualmap-tpot-slo-ms", b"x-llm-d-slo-tpot-ms")
TIMEOUT_HEADERS = (b"x-dualmap-timeout-ms",)
TENANT_HEADER = b"x-dualmap-tenant"
MAX_TENANT_BYTES = 128
MAX_PRIORITY = 100  # either way: beyond, all are alike, since each level costs those behind it time
_KEY_SALT = token_bytes(16)  # of this process: what journals hold of a key cannot be tried out elsewhere
USAGE_OPTION = b'"stream_options":{"include_usage":true},'
MAX_UNREAD_TOKENS = 8192  # a body that is not read may be audio or a batch: it must not pass for a giant prompt


def read_prompt(arrived: Arrived, block_tokens: int, ratio: TokenRatio, ask_for_usage: bool, apart: str) -> Prompt:
    """Read what the core needs of the body. apart: the tenant who shares no cached prefix with others; empty: with all
    who have none. Raises RequestRefusedError (400)."""
    body, route = arrived.body, arrived.route
    if route is Route.PASSED_THROUGH:
        return Prompt(body=body, tokens=max(1, min(int(len(body) / PRIOR_BYTES_PER_TOKEN), MAX_UNREAD_TOKENS)))
    peeked = peek_chat(body, block_tokens, apart) if route is Route.CHAT else peek_completion(body, block_tokens, apart)
    if apart:
        body = _with_salt(body, peeked.cache_salt)
    hides_usage = ask_for_usage and peeked.stream and not peeked.stream_options
    if hides_usage:
        body = _asking_for_usage(body)
    tokens = peeked.prompt_tokens or ratio.prompt_tokens(peeked.model, peeked.prompt_bytes)
    return Prompt(
        body=body,
        tokens=tokens,
        model=peeked.model,
        blocks=peeked.blocks,
        size_bytes=peeked.prompt_bytes,
        is_token_ids=bool(peeked.prompt_tokens),
        block_tokens=round(tokens * block_tokens * BYTES_PER_BLOCK_TOKEN / peeked.prompt_bytes) or 1,
        max_output_tokens=peeked.max_output_tokens,
        priority=max(-MAX_PRIORITY, min(MAX_PRIORITY, peeked.priority)),
        streams=peeked.stream,
        hides_usage=hides_usage,
    )


def _asking_for_usage(body: bytes) -> bytes:
    """The body of a stream's request, an object with fields, and one more in front."""
    brace = body.index(b"{") + 1
    return b"".join((body[:brace], USAGE_OPTION, memoryview(body)[brace:]))


def _with_salt(body: bytes, cache_salt: str) -> bytes:
    """The body, an object with fields, and one more at its end, where it wins over one of the client's."""
    brace = body.rindex(b"}")
    return b'%b,"cache_salt":"%b"%b' % (body[:brace], cache_salt.encode(), body[brace:])


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
    key = next(credentials(fields), b"") if arrived.grant is None else arrived.grant.key.sha256.encode()
    if not key:
        return ""
    return "key-" + blake2b(key, digest_size=8, key=_KEY_SALT).hexdigest()
