"""The target of a request in the one form in which it is both looked at here and sent to an instance.

What two programs could take for two paths must not reach the second: a rule that looked at one of them would not hold
for the other. So there is one path, which needs no decoding, and whatever cannot be brought into that form is refused.
"""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

from dualmap.router.http.openai_errors import HttpError, bad_request

LONGEST_KEPT_BYTES = 256  # targets come from clients: what is remembered of them stays below 1 MB
_ABSOLUTE = re.compile(rb"https?://[^/?#]+", re.IGNORECASE)
_ENCODING = re.compile(rb"%(?![0-9a-fA-F]{2})")
# A backslash is a slash to some, what follows a semicolon is no part of the path, a percent sign that is left would be
# decoded once more by the next.
_ODD = re.compile(r"[\x00-\x1f\x7f\\;%]")
_SAFE = "/:@!$&'()*+,=~"  # of a path (RFC 3986, section 3.3) beside what is never encoded


class RequestTarget(NamedTuple):
    """path: decoded, with no empty, `.` or `..` segment and no slash at its end. target: the path as it is sent, with
    the query as it came."""

    path: str
    target: bytes


def read_target(target: bytes, method: str) -> RequestTarget | HttpError:
    """The target of a request line in any form that it can have, or 400."""
    if method == "CONNECT" or (method == "OPTIONS" and target == b"*"):
        return RequestTarget(target.decode("latin-1"), target)
    if len(target) > LONGEST_KEPT_BYTES:
        return _read.__wrapped__(target)
    return _read(target)


@lru_cache(maxsize=1024)
def _read(target: bytes) -> RequestTarget | HttpError:
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None:
            return bad_request("The request's target must be a path, or a URL with http or https.")
        target = target[absolute.end() :]
    raw, mark, query = target.partition(b"?")
    if b"#" in target or _ENCODING.search(raw):
        return _odd_path()
    try:
        decoded = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return _odd_path()
    if _ODD.search(decoded):
        return _odd_path()
    segments: list[str] = []
    for segment in decoded.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    path = "/" + "/".join(segments)
    return RequestTarget(path, quote(path, safe=_SAFE).encode() + mark + query)


def _odd_path() -> HttpError:
    return bad_request("The request's path can be read in more than one way: it must be plain or encoded once.")
