"""A connection to another process's actors, opened when it is needed, and again when it has ended."""

import asyncio
from itertools import count
from typing import Any

from dualmap.router.local.frames import Frame, FrameError, frame, greet, read_frame
from dualmap.router.reach.packed import packed_call, unpacked
from dualmap.router.reach.reach import CallError

MOST_UNSENT_BYTES = 64 * 1024 * 1024  # to a process that stands still: calls fail then, and what is kept stays bounded
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0  # between connections that fail, each twice as long as the one before


class Connection:
    """path: of the process's socket."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._numbers = count(1)
        self._open: asyncio.Task[_Stream] | None = None
        self._pause_s = 0.0
        self._not_before = 0.0

    async def call(self, actor: str, method: str, *arguments: Any) -> Any:
        """Raises CallError. Who is cancelled, as by a time-out, hears no more of it."""
        stream = await self._stream()
        number = next(self._numbers)
        return await stream.ask(number, frame(number, packed_call(actor, method, arguments)))

    def close(self) -> None:
        """What is under way fails. The next call connects at once."""
        opened, self._open = self._open, None
        self._pause_s = self._not_before = 0.0
        if opened is not None:
            if opened.done() and _is_good(opened):
                opened.result().close()
            opened.cancel()

    async def _stream(self) -> "_Stream":
        """Several who ask wait for the same one; that one of them is cancelled changes nothing for the others."""
        opened = self._open
        if opened is not None and opened.done() and not _is_good(opened):
            opened = None
        if opened is None:
            if asyncio.get_running_loop().time() < self._not_before:
                raise CallError(f"nobody answers at {self._path}")
            opened = self._open = asyncio.create_task(self._connect())
            opened.add_done_callback(
                lambda task: task.cancelled() or task.exception()
            )  # nobody may wait for it by then
        try:
            return await asyncio.shield(opened)
        except (OSError, FrameError) as error:
            raise CallError(f"{self._path}: {error}") from None

    async def _connect(self) -> "_Stream":
        """Raises OSError, FrameError."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._path)
            try:
                await greet(reader, writer)
            except BaseException:
                writer.close()
                raise
        except (OSError, FrameError):
            self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
            self._not_before = asyncio.get_running_loop().time() + self._pause_s
            raise
        self._pause_s = 0.0
        return _Stream(reader, writer)


class _Stream:
    """ended: no call can be made any more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = False
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._task = asyncio.create_task(self._read(reader))

    async def ask(self, number: int, sent: bytes) -> Any:
        """Raises CallError."""
        if self.ended:
            raise CallError("the process has ended")
        if self._writer.transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            raise CallError("the process takes nothing any more")
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(sent)
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        self._writer.close()
        self._task.cancel()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        why = "the process has ended"
        try:
            while (told := await read_frame(reader)) is not None:
                answer = self._waiting.get(told.number)
                if answer is not None and not answer.done():
                    _settle(answer, told)
        except FrameError as error:
            why = str(error)
        finally:
            self.ended = True
            self._writer.close()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(CallError(why))


def _is_good(opened: "asyncio.Task[_Stream]") -> bool:
    return not opened.cancelled() and opened.exception() is None and not opened.result().ended


def _settle(answer: "asyncio.Future[Any]", told: Frame) -> None:
    try:
        answer.set_result(unpacked(told.pickled, told.failed))
    except CallError as error:
        answer.set_exception(error)
