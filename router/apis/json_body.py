"""A request's body as JSON, as far as the APIs that are placed by prefix have fields in common.

Fields are taken as vLLM takes them (pydantic's lax mode): 16, 16.0 and "16" are one number. A body with a field of
another type is one that vLLM refuses, and so it is not understood here.
"""

import json
from math import isfinite
from random import randrange
from typing import TypeVar

import msgspec

# What is read of a body may hold up all others for some 50 ms. Bodies up to the first size are never that dear; larger
# ones with more values than any prompt has reason to have are not read: an instance gets them all the same.
FREELY_READ_BYTES = 1 << 20
MAX_CONTAINERS = 500_000
MAX_VALUES = 3_000_000  # an answer of token ids has one for each
MAX_REREAD_BYTES = 4 << 20
MAX_REREAD_VALUES = 20_000  # Python takes ten times as long, and more for numbers
MAX_MESSAGES = 50_000
SAMPLES, LONG_NUMBER = 100, 300


B = TypeVar("B", bound=msgspec.Struct)


def decode(decoder: "msgspec.json.Decoder[B]", body: bytes, *, skips: bool = False) -> B | None:
    """None for what is no JSON object of the kind, has too many values, or is a large one that only Python takes for
    JSON. decoder: not strict. skips: it skips nearly all, which costs little."""
    if len(body) > FREELY_READ_BYTES and not skips and _is_dear(body):
        return None
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    if not is_reread(body):
        return None
    try:
        return decoder.decode(in_plain_json(body))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _is_dear(body: bytes) -> bool:
    """Whether it has too many values, or many numbers of hundreds of digits, which take a time that grows with the
    square of their length. The latter are looked for at random."""
    if _containers(body) > MAX_CONTAINERS or body.count(b",") > MAX_VALUES:
        return True
    starts = (randrange(len(body)) for _ in range(SAMPLES))
    return sum(body[start : start + LONG_NUMBER].isdigit() for start in starts) > SAMPLES // 20


def _containers(body: bytes) -> int:
    """At most so many."""
    return body.count(b"{") + body.count(b"[")


def is_reread(body: bytes) -> bool:
    """Whether Python reads what msgspec does not."""
    few = len(body) <= MAX_REREAD_BYTES and _containers(body) + body.count(b",") <= MAX_REREAD_VALUES
    return few and not (len(body) > FREELY_READ_BYTES and _is_dear(body))


def in_plain_json(body: bytes, *, beyond: int | None = None) -> bytes:
    """JSON as Python reads it, as vLLM does: with NaN, numbers beyond all bounds and halves of surrogate pairs, all of
    which JSON proper has not. beyond: stands for each such number. Raises ValueError, RecursionError."""

    def finite(digits: str) -> float | None:
        number = float(digits)
        return number if isfinite(number) else beyond

    content = json.loads(body, parse_constant=lambda _: beyond, parse_float=finite)
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")


def may_be_object(body: bytes) -> bool:
    """Whether vLLM may find an object in it, which is read by Python there, too, if another one."""
    try:
        return isinstance(json.loads(body), dict)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    except (ValueError, RecursionError):  # a number too long, nested too deep: its limits may be others
        return True
