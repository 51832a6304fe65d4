"""A request's body as JSON, as far as the APIs that are placed by prefix have fields in common."""

from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from dualmap.router.apis.api import Scope
from dualmap.router.apis.lax import lax_str


class CommonBody(msgspec.Struct, gc=False):
    """Fields of any type: what an API does not take, its instance refuses in its own words."""

    model: Any = None
    stream: Any = None
    priority: Any = None
    cache_salt: Any = None
    prompt_cache_key: Any = None
    session_id: Any = None


B = TypeVar("B", bound=CommonBody)


def decode(decoder: "msgspec.json.Decoder[B]", body: bytes) -> B | None:
    """None for what is no JSON object."""
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def model_of(fields: CommonBody, scope: Scope) -> str:
    return lax_str(fields.model) or scope.default_model


def salt_of(fields: CommonBody, scope: Scope) -> str:
    """What two tenants who are kept apart cannot have in common, whatever salts they choose."""
    salt = lax_str(fields.cache_salt)
    return sha256(f"{len(scope.apart)} {scope.apart} {salt}".encode()).hexdigest() if scope.apart else salt


def session_of(fields: CommonBody) -> str:
    return lax_str(fields.prompt_cache_key) or lax_str(fields.session_id)
