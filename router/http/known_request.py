"""The head of a request that has been read before, but for the values of a few fields."""

from collections.abc import Sequence

from dualmap.router.http.head_form import CONTENT_LENGTH, HeadForm, form_of
from dualmap.router.http.http_request import NOTED, HttpRequest

VARYING = frozenset({CONTENT_LENGTH, b"traceparent", b"x-request-id"})
# Such heads ask for more than that a body of the given length is read.
_SPECIAL = frozenset({b"content-encoding", b"expect", b"transfer-encoding"})


class KnownRequest:
    """form: of all the heads that it stands for."""

    __slots__ = ("_fields", "_length", "_method", "_noted", "_path", "_target", "form")

    def __init__(self, form: HeadForm, request: HttpRequest) -> None:
        self.form = form
        self._method = request.method
        self._target = request.target
        self._path = request.path
        self._fields = request.fields
        names = form.names
        self._length = names.index(CONTENT_LENGTH) if CONTENT_LENGTH in names else -1
        self._noted = tuple((name, names.index(name)) for name in names if name in NOTED and name != CONTENT_LENGTH)

    def request(self, values: Sequence[bytes], begun_at: float, left_bytes: int) -> HttpRequest:
        """A request with such a head. values: as the form has found them. left_bytes: that have come behind the head:
        most often its body and nothing else."""
        request = HttpRequest(begun_at)
        request.head_complete = True
        request.method = self._method
        request.target = self._target
        request.path = self._path
        request.fields = self._fields
        request.forwarded = self.form.lines(values)
        if self._length >= 0:
            said = values[self._length]
            request.content_length = length = left_bytes if said == b"%d" % left_bytes else int(said)
            request.has_body = length > 0
        if self._noted:
            request.fields = request.fields | {name: values[place] for name, place in self._noted}
        return request


def known_request(
    request: HttpRequest, data: bytes, target: bytes, fields: Sequence[tuple[bytes, bytes]]
) -> KnownRequest | None:
    """What is known of heads like that of the request, which stands at the beginning of the data, with this target and
    these fields; None where another such head may mean something else."""
    if request.close or request.method == "CONNECT" or not _SPECIAL.isdisjoint(request.fields):
        return None
    first_line = b"%b %b HTTP/1.1\r\n" % (request.method.encode(), target)
    form = form_of(data, first_line, fields, request.forwarded, VARYING)
    return None if form is None else KnownRequest(form, request)
