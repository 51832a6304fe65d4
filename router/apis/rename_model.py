"""The body of a request whose model instances know by another name: that name stands where the client's stood, and
every other byte is the client's."""

import re
from urllib.parse import parse_qsl, quote_plus

from msgspec.json import encode

from dualmap.router.apis.named_model import MAX_FIELDS, form_place, is_urlencoded, json_model
from dualmap.router.http.http_request import HttpRequest

MAX_TRIES = 8  # places in a body that look like the field: each is tried by reading the body again
_FIELD = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.)*")')


def rename_model(http: HttpRequest, body: bytes, served: str) -> bytes:
    """The body with the name by which instances serve the model. As it is where no model is found in it."""
    if is_urlencoded(http):
        return _rename_in_pairs(body, served)
    if (place := form_place(http, body)) is not None:
        return body[: place[0]] + served.encode() + body[place[1] :]
    return _rename_in_json(body, served)


def _rename_in_json(body: bytes, served: str) -> bytes:
    """Of what looks like the field, that is it by which the body names another model once it is replaced: others are
    within messages, or are followed by the field once more. Where none is, as with a key that is written with escapes,
    the field is added at the end, where it counts."""
    value = encode(served)
    for tries, found in enumerate(_FIELD.finditer(body)):
        if tries == MAX_TRIES:
            break
        renamed = b"".join((body[: found.start(1)], value, memoryview(body)[found.end(1) :]))
        if json_model(renamed) == served:
            return renamed
    before, brace, after = body.rpartition(b"}")
    return b'%b,"model":%b%b%b' % (before, value, brace, after) if brace else body


def _rename_in_pairs(body: bytes, served: str) -> bytes:
    """Of several fields the last one counts."""
    pairs = body.split(b"&")
    if len(pairs) > MAX_FIELDS:  # no server takes so many
        return body
    for position in reversed(range(len(pairs))):
        name = pairs[position].partition(b"=")[0].decode("latin-1")
        if parse_qsl(f"{name}=", keep_blank_values=True) == [("model", "")]:
            pairs[position] = b"model=" + quote_plus(served).encode()
            break
    return b"&".join(pairs)
