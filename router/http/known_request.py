"""The head of a request that has been read before, but for the values of a few fields."""

from collections.abc import Sequence

from dualmap.router.http.head_form import CONTENT_LENGTH, HeadForm, form_of
from dualmap.router.http.http_request import NOTED, HttpRequest

VARYING = frozenset({CONTENT_LENGTH, b"traceparent", b"x-request-id"})
# Such heads ask for more than that a body of the given length is read.
_SPECIAL = frozenset({b"content-encoding", b"expect", b"transfer-encoding"})


class KnownRequest:
    """form: of all the heads that it stands for."""

    __slots__ = ("_fields", "_forwarded", "_method", "_path", "_places", "_target", "form")

    def __init__(self, form: HeadForm, request: HttpRequest, places: dict[bytes, tuple[int, bytes]]) -> None:
        """places: of varying fields that are forwarded: which line, and how the name is written."""
        self.form = form
        self._method = request.method
        self._target = request.target
        self._path = request.path
        self._fields = request.fields
        self._forwarded = request.forwarded
        self._places = places

    def request(self, values: Sequence[bytes], begun_at: float) -> HttpRequest:
        """A request with such a head. values: as the form has found them."""
        request = HttpRequest(begun_at)
        request.head_complete = True
        request.method = self._method
        request.target = self._target
        request.path = self._path
        request.fields = self._fields
        request.forwarded = self._forwarded
        for name, value in zip(self.form.names, values, strict=True):
            if name == CONTENT_LENGTH:
                request.content_length = int(value)
                request.has_body = request.content_length > 0
            elif name in NOTED:
                request.fields = {**request.fields, name: value}
            else:
                line, written = self._places[name]
                request.forwarded = request.forwarded.copy()
                request.forwarded[line] = b"%b: %b\r\n" % (written, value)
        return request


def known_request(
    request: HttpRequest, data: bytes, target: bytes, fields: Sequence[tuple[bytes, bytes]]
) -> KnownRequest | None:
    """What is known of heads like that of the request, which stands at the beginning of the data, with this target and
    these fields; None where another such head may mean something else."""
    if request.close or request.method == "CONNECT" or not _SPECIAL.isdisjoint(request.fields):
        return None
    form = form_of(data, b"%b %b HTTP/1.1\r\n" % (request.method.encode(), target), fields, VARYING)
    if form is None:
        return None
    places = {}
    for name, value in fields:
        lower = name.lower()
        if lower in VARYING and lower not in NOTED:
            line = b"%b: %b\r\n" % (name, value)
            if line not in request.forwarded:
                return None
            places[lower] = request.forwarded.index(line), name
    return KnownRequest(form, request, places)
