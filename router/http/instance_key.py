"""The key that an instance wants, from its file: read again when the file changes."""

import logging
import os
import re
from time import monotonic

from dualmap.scheduler.fleet.endpoint import Endpoint

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 0.25  # between looks at a file: hundreds of instances may have one
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can hold of it


class WrongKeyError(Exception):
    """The file holds no key; the message says why, and nothing of what it holds."""


class KeyFiles:
    """What the files of keys hold. A file that cannot be read changes nothing. changes: how often one was another."""

    def __init__(self) -> None:
        self.changes = 0
        self._lines: dict[str, bytes] = {}  # by path
        self._versions: dict[str, tuple[int, ...]] = {}
        self._looked_at: dict[str, float] = {}

    def line(self, path: str) -> bytes:
        """Of a head, with its end; empty while nothing could be read."""
        now = monotonic()
        if now - self._looked_at.get(path, -LOOK_INTERVAL_S) >= LOOK_INTERVAL_S:
            self._looked_at[path] = now
            if (version := _version(path)) != self._versions.get(path):
                self._versions[path] = version
                self._read(path)
        return self._lines.get(path, b"")

    def look(self) -> None:
        """At all files that were asked for."""
        for path in list(self._looked_at):
            self.line(path)

    def _read(self, path: str) -> None:
        try:
            self._lines[path] = b"authorization: Bearer %b\r\n" % read_key(path)
            self.changes += 1
        except WrongKeyError as error:
            logger.error("the key for instances stays as it is: %s", error)


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
