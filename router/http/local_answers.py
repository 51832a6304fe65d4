"""Complete answers that the gateway gives itself."""


def no_content(fields: bytes, *, close: bool) -> bytes:
    """204. fields: lines of the head, each with its end."""
    connection = b"connection: close\r\n" if close else b""
    return b"HTTP/1.1 204 No Content\r\n%b%b\r\n" % (fields, connection)


def json_response(body: bytes, *, close: bool) -> bytes:
    return ok_response(body, b"application/json", close=close)


def ok_response(body: bytes, content_type: bytes, *, close: bool, fields: bytes = b"") -> bytes:
    """200 with the body. fields: more lines of the head, each with its end."""
    connection = b"connection: close\r\n" if close else b""
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
        content_type,
        len(body),
        fields,
        connection,
        body,
    )
