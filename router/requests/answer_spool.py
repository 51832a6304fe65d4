"""Plain answers that are too long to be held in memory: on disk until they are whole, then fed to their clients."""

import os
from collections.abc import Callable, Sequence
from tempfile import TemporaryFile

from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.connection_phase import BLOCKED
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.requests.answer_writer import AnswerWriter

PIECE_BYTES = 256 * 1024  # read and written at once: what a client's connection buffers of it
TAIL_BYTES = 64 * 1024  # of the end, where `usage` stands


class SpoolRoom:
    """What all answers on disk may take together."""

    def __init__(self, most_bytes: Callable[[], int]) -> None:
        self.used_bytes = 0
        self._most_bytes = most_bytes

    def has(self, size_bytes: int) -> bool:
        return self.used_bytes + size_bytes <= self._most_bytes()

    def spool(self, pieces: Sequence[bytes], whole_bytes: int) -> "Spool | None":
        """Begin one with these pieces; None where there is no room, or no place for files. whole_bytes: that it will
        have, and has room for from now on; 0: not known."""
        room_bytes = max(whole_bytes, sum(map(len, pieces)))
        if not self.has(room_bytes):
            return None
        try:
            spool = Spool(self, room_bytes)
        except OSError:
            return None
        if all(map(spool.add, pieces)):
            return spool
        spool.close()
        return None


class Spool:
    """The file has no name, and is gone with this process. size_bytes: of what was added."""

    __slots__ = ("_file", "_read_bytes", "_room", "_taken_bytes", "size_bytes")

    def __init__(self, room: SpoolRoom, taken_bytes: int) -> None:
        """taken_bytes: of the room, to begin with. Raises OSError."""
        self._file = TemporaryFile(buffering=0)  # noqa: SIM115
        self._room = room
        self._taken_bytes = taken_bytes
        room.used_bytes += taken_bytes
        self._read_bytes = 0
        self.size_bytes = 0

    def add(self, piece: bytes) -> bool:
        """Returns whether there was room for the whole piece: nothing of it is kept if not."""
        more_bytes = max(0, self.size_bytes + len(piece) - self._taken_bytes)
        if more_bytes and not self._room.has(more_bytes):
            return False
        left = memoryview(piece)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:  # the disk is full
            return False
        self.size_bytes += len(piece)
        self._taken_bytes += more_bytes
        self._room.used_bytes += more_bytes
        return True

    def whole(self) -> bytes:
        """All that was added."""
        return os.pread(self._file.fileno(), self.size_bytes, 0)

    def tail(self) -> bytes:
        start = max(0, self.size_bytes - TAIL_BYTES)
        return os.pread(self._file.fileno(), self.size_bytes - start, start)

    def next_piece(self) -> bytes:
        """What follows the piece before; empty at the end, or where it cannot be read."""
        left = min(PIECE_BYTES, self.size_bytes - self._read_bytes)
        piece = os.pread(self._file.fileno(), left, self._read_bytes) if left else b""
        self._read_bytes += len(piece)
        return piece

    @property
    def is_read(self) -> bool:
        return self._read_bytes == self.size_bytes

    def close(self) -> None:
        """Give its room back; once."""
        self._file.close()
        self._room.used_bytes -= self._taken_bytes


class SpoolFeed:
    """Gives a client the rest of an answer that has ended in all books, as fast as it takes it (Answering)."""

    def __init__(self, spool: Spool, writer: AnswerWriter, client: ClientConnection, http: HttpRequest) -> None:
        self._spool = spool
        self._writer = writer
        self._client = client
        self._http = http
        self._is_paused = client.phase is BLOCKED

    def go_on(self) -> None:
        """Write until the client takes no more."""
        while not self._is_paused:
            piece = self._spool.next_piece()
            if not piece:
                self._client.abort()  # it sees that its answer is cut short
                return
            is_last = self._spool.is_read
            self._writer.go_on(piece, is_last)
            if is_last:
                self._spool.close()
                self._client.answered(close=self._http.close)
                return

    def client_left(self) -> None:
        self._spool.close()

    def client_paused(self) -> None:
        self._is_paused = True

    def client_resumed(self) -> None:
        self._is_paused = False
        self.go_on()

    def probe_client(self) -> bool:
        self._writer.probe()
        return True
