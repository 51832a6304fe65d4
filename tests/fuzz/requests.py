"""Requests as bytes of a connection: what is read does not depend on how the bytes are cut into reads."""

from dualmap.router.http.head_form import MOST_IN_VAIN
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.openai_errors import HttpError, wrong_method
from dualmap.router.http.request_reader import RequestReader
from tests.fuzz.target import Target, cut

LIMITS = HttpLimits(max_body_bytes=600)


def _check_head(request: HttpRequest) -> HttpError | None:
    """As the gateway's service, which has no path for this method."""
    return wrong_method("CONNECT", request.path, "GET, POST") if request.method == "CONNECT" else None


def _read(pieces: list[bytes], *, knows_heads: bool = True) -> list[tuple[object, ...]]:
    reader = RequestReader(LIMITS, _check_head, lambda: 0.0)
    if not knows_heads:
        reader.noted_in_vain = MOST_IN_VAIN
    for piece in pieces:
        reader.feed(piece)
    refusals = [request for request in reader.ready if request.refusal is not None and request.close]
    assert len(refusals) == reader.stopped, "a connection is read no further after a refusal, and only then"
    told = [_told(request) for request in reader.ready]
    reader.stop()
    reader.close()
    return told


def _told(request: HttpRequest) -> tuple[object, ...]:
    if request.refusal is not None:
        return request.refusal.status, request.refusal.message
    assert len(request.body) <= LIMITS.max_body_bytes
    assert request.unpacking is None
    return (
        request.method,
        request.target,
        request.path,
        request.fields,
        request.forwarded,
        request.body,
        request.http10,
        request.close,
        request.needs_continue,
    )


def check(data: bytes) -> None:
    whole = _read([data])
    assert _read(cut(data)) == whole, "another cut, another request"
    again = [data, data, *cut(data)]
    assert _read(again) == _read(again, knows_heads=False), "a head is known for another"


REQUESTS = Target("requests", check)
