"""How a connection to an instance's server is opened, for requests of clients and for our own, and why one was not."""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar

from dualmap.router.http.name_addresses import addresses_of
from dualmap.scheduler.fleet.endpoint import Endpoint

_ProtocolT = TypeVar("_ProtocolT")

_BY_ERRNO = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "it closed the connection",
    errno.EPIPE: "it closed the connection",
    errno.EHOSTUNREACH: "no route to its host",
    errno.ENETUNREACH: "no route to its network",
    errno.ENOENT: "there is no such socket",
    errno.EACCES: "its socket may not be opened",
    errno.EMFILE: "too many files are open here",
}
_NO_TLS = ("wrong version number", "record layer failure", "packet length too long")
# What OpenSSL says of a certificate (X509_V_ERR_*), in words for operators.
_EXPIRED, _NOT_YET_VALID = 10, 9
_UNKNOWN_AUTHORITY = (18, 19, 20, 21)
_OTHER_NAME = (62, 64)


async def connect(endpoint: Endpoint, factory: Callable[[], _ProtocolT]) -> tuple[asyncio.Transport, _ProtocolT]:
    """Raises OSError, see why_unconnected. No time-out. factory: of what has the methods of an asyncio.Protocol, which
    loops find by name: it need not be a subclass, which cannot be compiled well."""
    loop: Any = asyncio.get_running_loop()  # its stubs ask for a subclass
    opened: tuple[asyncio.Transport, _ProtocolT]
    if endpoint.socket:
        opened = await loop.create_unix_connection(factory, endpoint.socket)
        return opened
    context = tls_context(endpoint.ca_file) if endpoint.tls else None
    name = (endpoint.server_name or endpoint.host) if endpoint.tls else None
    *others, last = await addresses_of(endpoint.host)
    for address in others:
        with suppress(OSError):
            opened = await loop.create_connection(factory, address, endpoint.port, ssl=context, server_hostname=name)
            return opened
    opened = await loop.create_connection(factory, last, endpoint.port, ssl=context, server_hostname=name)
    return opened


def tls_context(ca_file: str) -> ssl.SSLContext:
    """That trusts what the file holds by now; empty: what the system trusts. One for all connections, so that memory
    and sessions are shared. Raises OSError."""
    if not ca_file:
        return _context("", ())
    stat = os.stat(ca_file)
    return _context(ca_file, (stat.st_ino, stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)
def _context(ca_file: str, version: tuple[int, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a certificate that is named itself needs no authority
    context.set_alpn_protocols(["http/1.1"])
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError as error:
            raise OSError(f"{ca_file} holds no certificate: {error.reason or error}") from None
    else:
        context.load_default_certs()
    return context


def why_unconnected(error: OSError) -> str:
    """In a few words."""
    match error:
        case ssl.SSLCertVerificationError():
            return _wrong_certificate(error)
        case ssl.SSLError():
            reason = str(getattr(error, "reason", None) or error.args[-1]).replace("_", " ").lower()
            spoken = ": does it speak plain HTTP?" if reason in _NO_TLS else ""
            return f"no TLS connection: {reason}{spoken}"
        case socket.gaierror():
            return "its name is not known"
        case TimeoutError():
            return "no connection in time"
    if error.errno in _BY_ERRNO:
        return _BY_ERRNO[error.errno]
    if isinstance(error, ConnectionError):
        return "it closed the connection"
    return f"no connection: {error.strerror or error}"


def _wrong_certificate(error: ssl.SSLCertVerificationError) -> str:
    match getattr(error, "verify_code", 0):
        case code if code == _EXPIRED:
            return "its certificate has expired"
        case code if code == _NOT_YET_VALID:
            return "its certificate is not valid yet"
        case code if code in _UNKNOWN_AUTHORITY:
            return f"its certificate is signed by nobody who is known here (ca_file): {error.verify_message}"
        case code if code in _OTHER_NAME:
            return f"its certificate has another name (server_name): {error.verify_message}"
    return f"its certificate is not trusted: {error.verify_message}"
