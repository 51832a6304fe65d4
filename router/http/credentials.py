"""Where clients put their keys: OpenAI's in `authorization: Bearer`, Anthropic's in `x-api-key`, Azure's in
`api-key`."""

from collections.abc import Mapping

_KEY_FIELDS = (b"x-api-key", b"api-key")
CREDENTIAL_FIELDS = frozenset({b"authorization", *_KEY_FIELDS})


def bearer_token(fields: Mapping[bytes, bytes]) -> bytes:
    """That of an Authorization header, its scheme in any case; empty without one."""
    scheme, _, token = fields.get(b"authorization", b"").replace(b"\t", b" ").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def credentials(fields: Mapping[bytes, bytes]) -> list[bytes]:
    """All keys that the header fields bear, in the order in which they count."""
    token = bearer_token(fields)
    keys = [token] if token else []
    for name in _KEY_FIELDS:
        if name in fields and (key := fields[name].strip()):
            keys.append(key)
    return keys
