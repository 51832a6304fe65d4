"""Header fields that concern one connection and are never relayed (RFC 9110, section 7.6.1)."""

from collections.abc import Sequence

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_CONNECTION_OPTIONS = HOP_BY_HOP | {b"close", b""}


def named_by_connection(value: bytes) -> frozenset[bytes]:
    """Further fields, in lower case, that a Connection header declares to be hop-by-hop."""
    return frozenset(token.strip() for token in value.lower().split(b",")) - _CONNECTION_OPTIONS


def without_fields(lines: Sequence[bytes], names: frozenset[bytes]) -> list[bytes]:
    """The header lines whose field is not among the names."""
    return [line for line in lines if line.partition(b":")[0].lower() not in names]
