"""The key that an instance wants, from its file: read again when the file changes."""

import logging
import os
import re

from dualmap.scheduler.fleet.endpoint import Endpoint

logger = logging.getLogger(__name__)

_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can hold of it

_known: dict[str, tuple[tuple[int, ...], bytes]] = {}  # by path: version of the file, and the line made of it


class WrongKeyError(Exception):
    """The file holds no key; the message says why, and nothing of what it holds."""


def authorization_line(endpoint: Endpoint) -> bytes:
    """Of the head of a request, with its end; empty where the instance wants no key. A file that cannot be read
    changes nothing."""
    path = endpoint.key_file
    if not path:
        return b""
    version, line = _known.get(path, ((), b""))
    found = _version(path)
    if found != version:
        try:
            line = b"authorization: Bearer %b\r\n" % read_key(path)
        except WrongKeyError as error:
            logger.error("the key for instances stays as it is: %s", error)
        _known[path] = found, line
    return line


def read_key(path: str) -> bytes:
    """Raises WrongKeyError."""
    try:
        with open(path, encoding="latin-1") as file:
            key = file.read().strip()
    except OSError as error:
        raise WrongKeyError(f"{path} cannot be read: {error.strerror}") from None
    if not _TOKEN.fullmatch(key):
        raise WrongKeyError(f"{path} is empty" if not key else f"{path} holds more than one word of plain characters")
    return key.encode()


def _version(path: str) -> tuple[int, ...]:
    """Another one for another file; a mounted secret is a link that is swapped."""
    try:
        stat = os.stat(path)
    except OSError:
        return (0,)
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size)
