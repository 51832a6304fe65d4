"""An attempt at the rest of a chat whose text parsers read: what an instance sends is a completion, whose ids the same
instance turns into the chat's chunks on the way."""

import asyncio
from collections import deque

import msgspec

from dualmap.router.apis.chunk_stream import DONE
from dualmap.router.apis.derendered import TARGET, Derender, Piece, read_piece
from dualmap.router.apis.stream_event import PIECE, is_comment, whole_events
from dualmap.router.apis.stream_rules import CHUNK_STREAM
from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.answer_sink import AnswerSink, Upstream
from dualmap.router.http.instance_head import InstanceHead
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.requests.ask_instance import NO_ANSWER, ask_instance
from dualmap.router.requests.running import Running
from dualmap.scheduler.events import FailureCause

OK_STATUS = 200
NO_SUCH_TARGET = (404, 405)
ASK_S = 10.0
# Each call builds the parsers' state from all tokens so far. So an instance is busy with one answer's calls half of the
# time at the most.
PAUSE_S = 0.05
MOST_PIECES = 64


class Derendering(AnswerSink):
    """See AnswerSink, and Upstream: that of the attempt that it stands before."""

    def __init__(self, running: Running, pool: UpstreamPool, derender: Derender, lines: list[bytes]) -> None:
        """lines: of the head of a request to the instance."""
        self.upstream: Upstream | None = None
        self.body = running.body
        self._running = running
        self._pool = pool
        self._derender = derender
        self._lines = lines
        self._head: AnswerHead | None = None
        self._held = b""
        self._came: deque[Piece | bytes] = deque()
        self._complete = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        running.upstream = self

    # What the connection to the instance calls (AnswerSink).

    def head_for(self, to: InstanceHead) -> bytes:
        return self._running.head_for(to)

    def relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        if head.status != OK_STATUS or head.encoded or not head.event_stream:
            self._running.relay(body, pieces, head, complete)
            return
        events, self._held = whole_events(self._held + body)
        self._came.extend(_read(event) for event in events if not is_comment(event))
        if self._head is None:
            self._head = head
            self.body = b""  # its instance has it
            self._task = asyncio.create_task(self._pass_on(head))
        self._wake.set()

    def answer_complete(self, head: AnswerHead) -> None:
        self.upstream = None
        if self._task is None:
            self._running.answer_complete(head)
        self._complete = True
        self._wake.set()

    def attempt_failed(self, cause: FailureCause) -> None:
        """What has come and is no chunk yet is lost."""
        self.upstream = None
        self.abort()
        self._running.attempt_failed(cause)

    # What the attempt calls (Upstream).

    def abort(self) -> None:
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = None
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def pause_reading(self) -> None:
        if self.upstream is not None:
            self.upstream.pause_reading()

    def resume_reading(self) -> None:
        if self.upstream is not None:
            self.upstream.resume_reading()

    async def _pass_on(self, head: AnswerHead) -> None:
        running, came = self._running, self._came
        clock = asyncio.get_running_loop().time
        while running.upstream is self:
            if not came:
                if self._complete:
                    running.relay(b"", 0, head, True)
                    if running.upstream is self:
                        running.answer_complete(head)
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            first = came.popleft()
            if isinstance(first, bytes):
                running.relay(first, 1, head, False)
                continue
            pieces = [first]
            while came and isinstance(piece := came[0], Piece) and len(pieces) < MOST_PIECES:
                pieces.append(piece)
                came.popleft()
            asked_at = clock()
            event, cause = await self._event(pieces)
            if running.upstream is not self:
                return
            if event is None:
                self.abort()
                running.attempt_failed(cause)
                return
            running.relay(event, len(pieces), head, False)
            if pieces[-1].finish_reason is None:
                await asyncio.sleep(max(PAUSE_S, clock() - asked_at))

    async def _event(self, pieces: list[Piece]) -> tuple[bytes | None, FailureCause]:
        """Or why there is none."""
        told = await ask_instance(self._pool, TARGET, self._lines, self._derender.ask(pieces), ASK_S)
        if told.status in NO_SUCH_TARGET:
            self._pool.derenders = False
            return None, FailureCause.NOT_HERE
        if told.status != OK_STATUS:
            return None, FailureCause.BROKEN if told.status == NO_ANSWER else FailureCause.NOT_HERE
        try:
            return self._derender.told(told.body, pieces), FailureCause.BROKEN
        except (msgspec.MsgspecError, IndexError, UnicodeDecodeError):
            return None, FailureCause.BROKEN


def _read(event: bytes) -> Piece | bytes:
    """Its ids, where it has some of the answer."""
    if event == DONE or CHUNK_STREAM.meaning(event) is not PIECE:
        return event
    try:
        return read_piece(event)
    except (msgspec.MsgspecError, IndexError):
        return event
