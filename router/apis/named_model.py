"""The model that a request names, where the gateway reads no more of its body: in JSON, or in a form with files."""

import re

import msgspec

from dualmap.router.apis.api import NOT_UNDERSTOOD, ReadBody, Scope
from dualmap.router.apis.json_body import decode
from dualmap.router.http.http_request import HttpRequest

MAX_PARTS = 64
MAX_PART_HEAD_BYTES = 4096
MAX_MODEL_BYTES = 512
_IS_MODEL = re.compile(rb'^content-disposition:[^\r\n]*;\s*name="?model"?\s*(;|\r?$)', re.IGNORECASE | re.MULTILINE)


class _Body(msgspec.Struct, gc=False):
    model: str | None = None


_decoder = msgspec.json.Decoder(_Body)


def read_model(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader. Not understood where the body names no model."""
    if body[:4].lstrip().startswith(b"--"):
        model = _form_model(body)
    else:
        fields = decode(_decoder, body) if body else None
        model = (fields.model or "") if fields else ""
    return ReadBody(understood=False, model=model) if model else NOT_UNDERSTOOD


def _form_model(body: bytes) -> str:
    """Of a form (RFC 7578), whose first line is what stands between its parts; empty without one."""
    boundary = body.lstrip().partition(b"\r\n")[0]
    end = 0
    for _ in range(MAX_PARTS):
        start = body.find(boundary, end)
        head_end = body.find(b"\r\n\r\n", start, start + MAX_PART_HEAD_BYTES)
        if start < 0 or head_end < 0:
            return ""
        end = body.find(b"\r\n" + boundary, head_end)
        if _IS_MODEL.search(body[start:head_end]):
            value = body[head_end + 4 : end if end > 0 else len(body)]
            return value.decode("utf-8", "replace").strip() if len(value) <= MAX_MODEL_BYTES else ""
        if end < 0:
            return ""
        end += 2
    return ""
