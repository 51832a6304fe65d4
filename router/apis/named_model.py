"""The model that a request names, where the gateway reads no more of its body: in JSON, or in a form with files."""

import re

import msgspec

from dualmap.router.apis.api import NOT_UNDERSTOOD, ReadBody, Scope
from dualmap.router.apis.json_body import CommonBody, decode
from dualmap.router.apis.lax import lax_str
from dualmap.router.http.http_request import HttpRequest

# RFC 7578: a field of a form is a part of its own, headed by its name.
_FORM_MODEL = re.compile(
    rb'content-disposition:[^\r\n]*;\s*name="?model"?[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*\r?\n([^\r\n]{0,512})\r?\n',
    re.IGNORECASE,
)

_decoder = msgspec.json.Decoder(CommonBody)


def read_model(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader. Not understood where the body names no model."""
    if body[:2] == b"--":
        found = _FORM_MODEL.search(body)
        model = found[1].decode("utf-8", "replace").strip() if found else ""
    else:
        fields = decode(_decoder, body) if body else None
        model = lax_str(fields.model) if fields else ""
    return ReadBody(understood=False, model=model) if model else NOT_UNDERSTOOD
