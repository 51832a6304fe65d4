"""What pages of other origins may do with the gateway in a browser (CORS, as the Fetch standard has it)."""

from collections.abc import Collection

from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import HttpError, bad_request

ALL = "*"
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_ALWAYS_ALLOWED = ("accept", "accept-language", "content-language", "content-type")
_READABLE = (
    "retry-after",
    "x-dualmap-instance",
    "x-dualmap-prefill-instance",
    "x-dualmap-queue-ms",
    "x-request-id",
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
)


class Cors:
    """See CorsSettings."""

    def __init__(
        self,
        origins: Collection[str] = (ALL,),
        methods: Collection[str] = (ALL,),
        headers: Collection[str] = (ALL,),
        credentials: bool = False,
        max_age_s: int = 600,
    ) -> None:
        self._origins = frozenset(origin.lower().encode() for origin in origins)
        self._all_origins = ALL in origins
        self._names_origin = credentials or not self._all_origins
        self._methods = _METHODS if ALL in methods else tuple(method.upper() for method in methods)
        self._headers = None if ALL in headers else (*_ALWAYS_ALLOWED, *(name.lower() for name in headers))
        self._more = b"access-control-allow-credentials: true\r\n" if credentials else b""
        self._readable = b"access-control-expose-headers: %b\r\n" % ", ".join(_READABLE).encode()
        self._max_age = b"access-control-max-age: %d\r\n" % max_age_s

    def answer_lines(self, origin: bytes) -> bytes:
        """What the head of an answer says to a page of the origin; nothing where that may not read it."""
        lines = self._origin_lines(origin)
        return lines + self._readable if lines else b""

    def refusal(self, request: HttpRequest) -> HttpError | None:
        """Why the answer to a preflight is no, if it is."""
        fields = request.fields
        origin = fields[b"origin"].decode("latin-1")
        method = fields[b"access-control-request-method"].decode("latin-1")
        if not self._origin_lines(fields[b"origin"]):
            return bad_request(f"Pages of `{origin}` may not use this gateway (gateway.cors.origins).")
        if method not in self._methods:
            return bad_request(f"Pages may not use the method `{method}` (gateway.cors.methods).")
        if self._headers is not None:
            asked = fields.get(b"access-control-request-headers", b"").decode("latin-1").lower()
            for name in filter(None, map(str.strip, asked.split(","))):
                if name not in self._headers:
                    return bad_request(f"Pages may not send the header `{name}` (gateway.cors.headers).")
        return None

    def preflight_lines(self, request: HttpRequest) -> bytes:
        """What the head of the answer to a preflight says that is not refused."""
        asked = request.fields.get(b"access-control-request-headers", b"")
        headers = asked if self._headers is None else ", ".join(self._headers).encode()
        return b"".join(
            (
                b"access-control-allow-methods: %b\r\n" % ", ".join(self._methods).encode(),
                b"access-control-allow-headers: %b\r\n" % headers if headers else b"",
                self._max_age,
            )
        )

    def _origin_lines(self, origin: bytes) -> bytes:
        if not self._all_origins and origin.lower() not in self._origins:
            return b""
        named = b"%b\r\nvary: origin" % origin if self._names_origin else b"*"
        return b"access-control-allow-origin: %b\r\n%b" % (named, self._more)


def is_preflight(request: HttpRequest) -> bool:
    """A browser asks whether a page may send another request, which is to come."""
    fields = request.fields
    return request.method == "OPTIONS" and b"origin" in fields and b"access-control-request-method" in fields
