"""Fields of a body by which an instance connects to hosts that they name: to fetch computed prompts, or what an encoder
has made of pictures.

vLLM 0.32 takes them from the top of a body, from `vllm_xargs`, which in a form is a text, and from the `extra_args` of
`sampling_params`. Of several fields of a name the last one counts, as in Python's dicts.
"""

import json
import re

import msgspec
from msgspec import Raw

from dualmap.router.apis.body_fields import given
from dualmap.router.apis.json_body import in_plain_json, is_reread
from dualmap.router.apis.named_model import is_form, is_form_in_utf8
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request, transfer_refused

_ENDING = b"transfer_params"
_ESCAPED = re.compile(rb"\\u00[5-7]")  # one of their letters, or the underscore


class _Arguments(msgspec.Struct, gc=False):
    kv_transfer_params: Raw = Raw(b"")
    ec_transfer_params: Raw = Raw(b"")


class _Sampling(msgspec.Struct, gc=False):
    extra_args: _Arguments | None = None


class _Body(_Arguments, gc=False):
    vllm_xargs: _Arguments | None = None
    sampling_params: _Sampling | None = None


_decode = msgspec.json.Decoder(_Body).decode


def check_transfer_fields(http: HttpRequest, body: bytes) -> None:
    """Raises RequestRefusedError (400) where a body has such a field, or hides whether it has one."""
    form = is_form(http)
    if form and not is_form_in_utf8(http):
        raise RequestRefusedError(bad_request("The texts of a form must be in UTF-8.", "content-type"))
    if not (_ENDING in body or (b"\\u00" in body and _ESCAPED.search(body))):
        return
    # Servers differ in what they take for a form's field: there, the name is enough, wherever it stands.
    if field := "vllm_xargs.kv_transfer_params" if form else _field_of(_read(body)):
        raise RequestRefusedError(transfer_refused(field))


def _read(body: bytes) -> _Body:
    """Empty for what is no JSON, which an instance refuses. Raises RequestRefusedError (400)."""
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if is_reread(body):
            try:
                return _decode(in_plain_json(body, beyond=0))  # NaN is no null
            except (json.JSONDecodeError, UnicodeDecodeError):
                return _Body()
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass
    message = "Whether the body has `kv_transfer_params`, which is not taken from clients, cannot be read."
    raise RequestRefusedError(bad_request(message, "kv_transfer_params"))


def _field_of(body: _Body) -> str:
    """Empty where there is none."""
    sampling = body.sampling_params
    return (
        _named(body, "")
        or _named(body.vllm_xargs, "vllm_xargs.")
        or _named(None if sampling is None else sampling.extra_args, "sampling_params.extra_args.")
    )


def _named(arguments: _Arguments | None, where: str) -> str:
    if arguments is not None:
        for name in ("kv_transfer_params", "ec_transfer_params"):
            if given(getattr(arguments, name)):
                return where + name
    return ""
