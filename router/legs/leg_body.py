"""The body of a leg: the request's, and more fields at its end, where they win over others of their names, as vLLM
reads JSON."""

NAME = b'"kv_transfer_params":'


def leg_body(body: bytes, fields: bytes, params: bytes) -> bytes:
    """body: a JSON object with fields. fields: each behind a comma. params: what `kv_transfer_params` is."""
    return b"".join((memoryview(body)[: body.rindex(b"}")], fields, b",", NAME, params, b"}"))
