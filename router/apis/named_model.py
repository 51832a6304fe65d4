"""The model that a request names and the files it brings, where the gateway reads no more of its body: in JSON, or in a
form.

A key may be limited to some models, so what is read here must be what the server reads: of several fields of the name
the last one, as Starlette's forms have it.
"""

import re
from collections.abc import Iterator
from itertools import islice
from urllib.parse import parse_qsl

import msgspec
from msgspec import Raw

from dualmap.router.apis.json_body import decode, is_reread, may_be_object
from dualmap.router.apis.media import MAX_PARTS
from dualmap.router.apis.read_body import NOT_UNDERSTOOD, ReadBody, Scope
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.tokens.token_ratio import MEDIA_TOKENS

MAX_FIELDS = 2000  # as many as Starlette takes: 1,000 files and as many others
MAX_PART_HEAD_BYTES = 4096
MAX_MODEL_BYTES = 512
_MULTIPART = b"multipart/form-data"
_URLENCODED = b"application/x-www-form-urlencoded"
_DISPOSITION = re.compile(rb"^content-disposition[ \t]*:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_PART_TYPE = re.compile(rb"^content-type[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_DATA_URL = re.compile(rb'"data:([\w.+-]+)\\?/[^"]*"')
# Wherever they stand, so that it does not matter what a server takes for a part's head. Names are text, and servers
# strip more than spaces.
_NAMES_MODEL = re.compile(rb'=[\x00-\x20\x7f-\xff]*"?model(?![\w.-])')
_EXTENDED_NAME = b"name*"  # RFC 2231: in another charset, in hexadecimal digits, in pieces
_CHARSET = re.compile(rb"charset", re.IGNORECASE)
_UTF_8 = re.compile(rb';[ \t]*charset[ \t]*=[ \t]*(?:utf-8|"utf-8")[ \t]*(?=;|$)', re.IGNORECASE)
_PARAMETER = re.compile(rb';\s*([^=;\s"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\r\n]*)')


class _Body(msgspec.Struct, gc=False):
    model: Raw = Raw(b"null")


ILLEGIBLE = ReadBody(understood=False, legible=False)
_decoder = msgspec.json.Decoder(_Body)
_decode_name = msgspec.json.Decoder(str | None).decode


def read_model(http: HttpRequest, body: bytes, scope: Scope) -> ReadBody:
    """See Reader: never understood. media, text_bytes: as far as they can be told apart without reading it all."""
    if is_urlencoded(http):
        return ReadBody(understood=False, model=_urlencoded_model(body))
    if boundary := _boundary(http, body):
        return _read_form(body, boundary)
    model = _json_model(body) if body else None
    if model is None:
        return ILLEGIBLE
    if b'"data:' not in body:
        return ReadBody(understood=False, model=model) if model else NOT_UNDERSTOOD
    media: dict[str, int] = {}
    text_bytes = len(body)
    for url in islice(_DATA_URL.finditer(body), MAX_PARTS):
        _count(media, url[1])
        text_bytes -= len(url[0])
    return ReadBody(understood=False, model=model, media=media, text_bytes=text_bytes)


def is_urlencoded(http: HttpRequest) -> bool:
    return _content_type(http).partition(b";")[0].strip().lower() == _URLENCODED


def form_place(http: HttpRequest, body: bytes) -> tuple[int, int] | None:
    """Where in a form the model's name stands, from and to; None where the body is no form or has none."""
    boundary = _boundary(http, body)
    places = [(start, end) for about, _, start, end in _parts(body, boundary) if about.get(b"name") == b"model"]
    return places[-1] if places else None


def is_form(http: HttpRequest) -> bool:
    """Whether the request says that its body is one of parts."""
    return _content_type(http).partition(b";")[0].strip().lower() == _MULTIPART


def is_form_in_utf8(http: HttpRequest) -> bool:
    """Whether it says of no other charset."""
    content_type = _content_type(http)
    return len(_CHARSET.findall(content_type)) == len(_UTF_8.findall(content_type))


def json_model(body: bytes) -> str:
    """Empty where none is found."""
    return _json_model(body) or ""


def _json_model(body: bytes) -> str | None:
    """Of several the last one. Empty where none is named; None where that cannot be told."""
    fields = decode(_decoder, body, skips=True)
    try:
        return None if fields is None else _decode_name(fields.model) or ""
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _count(media: dict[str, int], content_type: bytes) -> None:
    kind = content_type.partition(b"/")[0].decode("latin-1").lower()
    kind = kind if kind in MEDIA_TOKENS else "file"
    media[kind] = media.get(kind, 0) + 1


def hides_model(http: HttpRequest, body: bytes, model: str) -> bool:
    """Whether a server may read another model than the one found here, if any: of a form that names it more than once,
    or in other charsets, or of JSON that cannot be read here."""
    if is_form(http):
        named = len(_NAMES_MODEL.findall(body))
        return named != bool(model) or _EXTENDED_NAME in body.lower() or not is_form_in_utf8(http)
    return not model and decode(_decoder, body, skips=True) is None and (not is_reread(body) or may_be_object(body))


def _content_type(http: HttpRequest) -> bytes:
    """Empty without one."""
    for line in http.forwarded:
        if line[:13].lower() == b"content-type:":
            return line[13:].strip()
    return b""


def _parameters(value: bytes) -> dict[bytes, bytes]:
    """Of a header field, by lower-case name."""
    return {match[1].lower(): match[2].strip().strip(b'"') for match in _PARAMETER.finditer(value)}


def _urlencoded_model(body: bytes) -> str:
    try:
        fields = parse_qsl(body.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:  # more than that
        return ""
    models = [value for name, value in fields if name == "model"]
    return models[-1][:MAX_MODEL_BYTES].strip() if models else ""


def _boundary(http: HttpRequest, body: bytes) -> bytes:
    """What stands between the parts of a form (RFC 7578); empty where the body is none."""
    content_type = _content_type(http) if body else b""
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == _MULTIPART and (boundary := _parameters(content_type).get(b"boundary")):
        return b"--" + boundary
    if body[:4].lstrip().startswith(b"--"):
        return body.lstrip().partition(b"\r\n")[0]
    return b""


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[dict[bytes, bytes], bytes, int, int]]:
    """Of a form: what is said of each part, its content type, and from and to where its value stands."""
    start = body.find(boundary) if boundary else -1
    for _ in range(MAX_FIELDS):
        head_end = body.find(b"\r\n\r\n", start, start + MAX_PART_HEAD_BYTES)
        if start < 0 or head_end < 0:
            return
        end = body.find(b"\r\n" + boundary, head_end)
        value_end = end if end >= 0 else len(body)
        dispositions = _DISPOSITION.findall(body, start, head_end)
        types = _PART_TYPE.findall(body, start, head_end)
        about = _parameters(dispositions[-1]) if dispositions else {}
        yield about, types[-1] if types else b"", head_end + 4, value_end
        start = end + 2 if end >= 0 else -1


def _read_form(body: bytes, boundary: bytes) -> ReadBody:
    model = ""
    media: dict[str, int] = {}
    text_bytes = 0
    for about, content_type, value_start, value_end in _parts(body, boundary):
        if b"filename" in about:
            _count(media, content_type)
        else:
            text_bytes += value_end - value_start
        if about.get(b"name") == b"model":
            model = _text(body[value_start:value_end])
    return ReadBody(understood=False, model=model, media=media, text_bytes=text_bytes)


def _text(value: bytes) -> str:
    """Longer names are cut, and so are nobody's."""
    return value[:MAX_MODEL_BYTES].decode("utf-8", "replace").strip()
