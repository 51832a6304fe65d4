"""A parsed HTTP request -> what the core is told of it."""

from hashlib import blake2b
from math import isfinite
from secrets import token_bytes

from dualmap.router.access.access import Grant
from dualmap.router.apis.peek import BYTES_PER_BLOCK_TOKEN, peek_chat, peek_completion
from dualmap.router.apis.routes import Route
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request
from dualmap.router.requests.driven import Driven
from dualmap.router.tokens.token_ratio import PRIOR_BYTES_PER_TOKEN, TokenRatio
from dualmap.scheduler.request import Request

TTFT_SLO_HEADERS = (b"x-dualmap-ttft-slo-ms", b"x-llm-d-slo-ttft-ms")  # the first one present counts
TPOT_SLO_HEADERS = (b"x-dualmap-tpot-slo-ms", b"x-llm-d-slo-tpot-ms")
TIMEOUT_HEADER = b"x-dualmap-timeout-ms"
TENANT_HEADER = b"x-dualmap-tenant"
MAX_TENANT_BYTES = 128
MAX_PRIORITY = 100  # either way: beyond, all are alike, since each level costs those behind it time
_KEY_SALT = token_bytes(16)  # of this process: what journals hold of a key cannot be tried out elsewhere
USAGE_OPTION = b'"stream_options":{"include_usage":true},'
MAX_UNREAD_TOKENS = 8192  # a body that is not read may be audio or a batch: it must not pass for a giant prompt


def take_in(
    exchange: Driven, route: Route, block_tokens: int, ratio: TokenRatio, ask_for_usage: bool, isolate_tenants: bool
) -> Request:
    """Read what the core needs, and note in the exchange what its end will need. isolate_tenants: no two of them share
    a cached prefix. Raises RequestRefusedError (400)."""
    ttft_slo_s = _seconds(exchange.request, *TTFT_SLO_HEADERS)
    tpot_slo_s = _seconds(exchange.request, *TPOT_SLO_HEADERS)
    timeout_s = _seconds(exchange.request, TIMEOUT_HEADER)
    tenant = _tenant(exchange.request, exchange.grant)
    body = exchange.body
    if route is Route.PASSED_THROUGH:
        tokens = max(1, min(int(len(body) / PRIOR_BYTES_PER_TOKEN), MAX_UNREAD_TOKENS))
        exchange.prompt_tokens = tokens
        return Request(
            exchange.id,
            (),
            tokens,
            ttft_slo_s=ttft_slo_s,
            tenant=tenant,
            streams=False,
            timeout_s=timeout_s,
            tpot_slo_s=tpot_slo_s,
        )
    apart = tenant if isolate_tenants else ""
    peeked = peek_chat(body, block_tokens, apart) if route is Route.CHAT else peek_completion(body, block_tokens, apart)
    if apart:
        exchange.body = body = _with_salt(body, peeked.cache_salt)
    if ask_for_usage and peeked.stream and not peeked.stream_options:
        exchange.body = _asking_for_usage(body)
        exchange.hides_usage = True
    exchange.model = peeked.model
    exchange.prompt_bytes = peeked.prompt_bytes
    exchange.prompt_is_token_ids = bool(peeked.prompt_tokens)
    prompt_tokens = peeked.prompt_tokens or ratio.prompt_tokens(peeked.model, peeked.prompt_bytes)
    exchange.prompt_tokens = prompt_tokens
    block_bytes = block_tokens * BYTES_PER_BLOCK_TOKEN
    return Request(
        exchange.id,
        peeked.blocks,
        prompt_tokens,
        peeked.max_output_tokens,
        ttft_slo_s,
        max(-MAX_PRIORITY, min(MAX_PRIORITY, peeked.priority)),
        tenant,
        peeked.stream,
        round(prompt_tokens * block_bytes / peeked.prompt_bytes) or 1,
        timeout_s=timeout_s,
        tpot_slo_s=tpot_slo_s,
    )


def _asking_for_usage(body: bytes) -> bytes:
    """The body of a stream's request, an object with fields, and one more in front."""
    brace = body.index(b"{") + 1
    return b"".join((body[:brace], USAGE_OPTION, memoryview(body)[brace:]))


def _with_salt(body: bytes, cache_salt: str) -> bytes:
    """The body, an object with fields, and one more at its end, where it wins over one of the client's."""
    brace = body.rindex(b"}")
    return b'%b,"cache_salt":"%b"%b' % (body[:brace], cache_salt.encode(), body[brace:])


def _seconds(request: HttpRequest, *names: bytes) -> float | None:
    """Of the first of these headers that is there, which gives milliseconds."""
    for name in names:
        value = request.fields.get(name)
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


def _tenant(request: HttpRequest, grant: Grant | None) -> str:
    """That of its API key. Where no keys are asked for, or the key is one for many tenants: as its header says, else
    whoever has the same bearer token, which itself is kept nowhere; empty without either."""
    if grant is not None and grant.key.tenant is not None:
        return grant.key.tenant
    named = request.fields.get(TENANT_HEADER)
    if named:
        if len(named) > MAX_TENANT_BYTES:
            field = TENANT_HEADER.decode()
            raise RequestRefusedError(bad_request(f"`{field}` must have at most {MAX_TENANT_BYTES} bytes.", field))
        return named.decode("latin-1")
    scheme, _, key = request.fields.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer" or not (key := key.strip()):
        return ""
    return "key-" + blake2b(key, digest_size=8, key=_KEY_SALT).hexdigest()
