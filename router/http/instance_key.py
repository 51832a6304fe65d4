"""The key that an instance wants, from its file: read again when the file changes."""

import logging
import os
import re

from dualmap.scheduler.fleet.endpoint import Endpoint

logger = logging.getLogger(__name__)

_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can hold of it


class WrongKeyError(Exception):
    """The file holds no key; the message says why, and nothing of what it holds."""


class KeyFiles:
    """What the files of keys hold. A file that cannot be read changes nothing. changes: how often one was another."""

    def __init__(self) -> None:
        self.changes = 0
        self._known: dict[str, tuple[tuple[int, ...], bytes]] = {}  # by path: its version, and the line made of it

    def line(self, path: str) -> bytes:
        version, line = self._known.get(path, ((), b""))
        found = _version(path)
        if found != version:
            try:
                line = b"authorization: Bearer %b\r\n" % read_key(path)
            except WrongKeyError as error:
                logger.error("the key for instances stays as it is: %s", error)
            self._known[path] = found, line
            self.changes += 1
        return line

    def look(self) -> None:
        """At all files that were asked for."""
        for path in list(self._known):
            self.line(path)


KEY_FILES = KeyFiles()  # of this process: many instances have one key


def authorization_line(endpoint: Endpoint) -> bytes:
    """Of the head of a request, with its end; empty where the instance wants no key."""
    return KEY_FILES.line(endpoint.key_file) if endpoint.key_file else b""


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
