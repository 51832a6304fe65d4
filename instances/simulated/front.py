"""What stands before the APIs of a simulated server, as vLLM has it: keys, a path's prefix, and the time in which it
loads its model."""

from dataclasses import dataclass

from dualmap.router.http.http_request import HttpRequest

GUARDED = ("/v1", "/v2", "/inference", "/cohere")  # vllm/entrypoints/serve/middleware/authenticate.py
_UNAUTHORIZED = b'{"error":"Unauthorized"}'


@dataclass(frozen=True, slots=True)
class Front:
    """api_keys: of which a request to a guarded path must bear one; empty: none. root_path: a prefix that paths may
    have and need not. load_s: since its start, in which everything is answered 503."""

    api_keys: tuple[str, ...] = ()
    root_path: str = ""
    load_s: float = 0.0

    def refuses(self, request: HttpRequest) -> bool:
        """Whether the request lacks a key. vLLM looks at a path before it knows whether there is such a path."""
        if not self.api_keys or request.method == "OPTIONS":
            return False
        if not request.path.removeprefix(self.root_path).startswith(GUARDED):
            return False
        scheme, _, key = request.fields.get(b"authorization", b"").partition(b" ")
        return scheme.lower() != b"bearer" or key.decode("latin-1") not in self.api_keys

    def route(self, path: str) -> str:
        """The path without its prefix (starlette._utils.get_route_path)."""
        rest = path.removeprefix(self.root_path)
        return rest if rest.startswith("/") else path


def unauthorized_response(*, close: bool) -> bytes:
    connection = b"connection: close\r\n" if close else b""
    return b"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b" % (
        len(_UNAUTHORIZED),
        connection,
        _UNAUTHORIZED,
    )
