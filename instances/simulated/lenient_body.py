"""JSON bodies read as leniently as vLLM reads them: what is not of the right type is converted as pydantic does it."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from pydantic import TypeAdapter

from dualmap.router.http.openai_errors import RequestRefusedError, bad_request

NUMBERS = frozenset({int, float, bool})
B = TypeVar("B", bound=msgspec.Struct)


def read_body(kind: type[B], body: bytes) -> B:
    """Strictly at first, which is quicker; what that refuses is read once more, with numbers from strings, whole
    numbers from floats, truth values from 0, "yes" and the like, with NaN, a byte order mark or in UTF-16. Raises
    RequestRefusedError.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        strict = error
    try:
        fields = json.loads(body)
        json.dumps(fields, ensure_ascii=False).encode()
        return msgspec.convert(_converted(kind, fields), kind)
    except UnicodeEncodeError:
        raise RequestRefusedError(bad_request("Half of a surrogate pair cannot be tokenized.")) from None
    except (ValueError, RecursionError, msgspec.MsgspecError):
        raise RequestRefusedError(bad_request(f"The body is not a valid request: {strict}.")) from None


def _converted(kind: type[msgspec.Struct], fields: Any) -> Any:
    """Raises ValueError."""
    if not isinstance(fields, dict):
        return fields
    converters = _converters(kind)
    return {key: converters[key](value) if key in converters else value for key, value in fields.items()}


@cache
def _converters(kind: type[msgspec.Struct]) -> dict[str, Callable[[Any], Any]]:
    """By field: of fields with numbers or truth values, and of those that hold structs, which convert theirs."""
    found: dict[str, Callable[[Any], Any]] = {}
    for name, hint in get_type_hints(kind).items():
        members = _members(hint)
        structs = [each for each in members if isinstance(each, type) and issubclass(each, msgspec.Struct)]
        if len(structs) == 1:
            found[name] = _nested(structs[0])
        elif not NUMBERS.isdisjoint(members):
            found[name] = TypeAdapter(hint).validate_python
    return found


def _members(hint: Any) -> list[Any]:
    """The hint and all that stands in it: of `list[A] | None` also A."""
    return [hint, *(member for argument in get_args(hint) for member in _members(argument))]


def _nested(kind: type[msgspec.Struct]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        return [_converted(kind, each) for each in value] if isinstance(value, list) else _converted(kind, value)

    return convert
