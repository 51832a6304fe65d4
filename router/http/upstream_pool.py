"""The connections to one instance: the one used last is used next, those unused for a while are closed."""

import asyncio
import logging
from collections.abc import Callable

from dualmap.router.http.answer_sink import AnswerSink
from dualmap.router.http.endpoint_connection import connect, why_unconnected
from dualmap.router.http.instance_head import head_to
from dualmap.router.http.known_answer import KnownAnswer
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.upstream import ConnectionOwner, UpstreamConnection
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.fleet.endpoint import Endpoint

logger = logging.getLogger(__name__)

WARN_AGAIN_S = 60.0


class UpstreamPool(ConnectionOwner):
    """head: what requests say of the instance. answer_lines: headers that name the instance. tells_ids: it tells the
    token ids of streams where it is asked for them, as far as is known. derenders: it turns ids into chunks of a chat,
    as far as is known. opened: how many connections. known, noted_in_vain: see ConnectionOwner."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        instance_id: str,
        endpoint: Endpoint,
        limits: HttpLimits,
        clock: Callable[[], float],
    ) -> None:
        self.instance_id = instance_id
        self.endpoint = endpoint
        self.head = head_to(endpoint)
        self.answer_lines = f"x-dualmap-instance: {instance_id}\r\nx-dualmap-queue-ms: ".encode()
        self.tells_ids = self.derenders = True
        self.known: KnownAnswer | None = None
        self.noted_in_vain = 0
        self.opened = 0
        self.closed = False
        self._loop = loop
        self.limits = limits
        self._clock = clock
        self._idle: list[UpstreamConnection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._warned_at: dict[str, float] = {}  # by what was said

    def run(self, sink: AnswerSink) -> None:
        """Send the sink's request over a kept-alive connection, or a new one where there is none."""
        idle = self._idle
        oldest = self._clock() - self.limits.upstream_idle_s
        while idle:
            connection = idle.pop()
            if connection.usable:
                if connection.idle_since > oldest:
                    connection.run(sink, sink.head_for(self.head), sink.body)
                    return
                connection.close()
        self.open_for(sink)

    def open_for(self, sink: AnswerSink) -> None:
        """Send the sink's request over a new connection."""
        task = self._loop.create_task(self._open(sink))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        sink.upstream = OpeningConnection(task)

    def keep(self, connection: UpstreamConnection) -> None:
        """The connection has become idle."""
        if self.closed or len(self._idle) >= self.limits.max_upstream_idle:
            connection.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close what has been idle for long; the oldest are first in the list."""
        oldest = now - self.limits.upstream_idle_s
        while self._idle and self._idle[0].idle_since <= oldest:
            self._idle.pop(0).close()

    def renew_key(self) -> None:
        """Requests bear the key as its file has it by now."""
        self.head = head_to(self.endpoint)

    def warn(self, what: str) -> None:
        """Say in the log what is wrong with the instance; the same only now and then."""
        now = self._clock()
        if now - self._warned_at.get(what, -WARN_AGAIN_S) >= WARN_AGAIN_S:
            self._warned_at[what] = now
            logger.warning("%s: %s", self.instance_id, what)

    def close(self) -> None:
        """Close what is idle; what still runs closes when it is through."""
        self.closed = True
        while self._idle:
            self._idle.pop().close()

    async def _open(self, sink: AnswerSink) -> None:
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                _, connection = await connect(self.endpoint, lambda: UpstreamConnection(self, self._clock))
        except OSError as error:  # TimeoutError is one
            self.warn(why_unconnected(error))
            sink.attempt_failed(FailureCause.CONNECT)
            return
        self.opened += 1
        connection.run(sink, sink.head_for(self.head), sink.body)


class OpeningConnection:
    """Stands for a connection that is being opened, so that its sink can give up on it."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def abort(self) -> None:
        self._task.cancel()

    def pause_reading(self) -> None:
        """Nothing is read yet; the first relayed bytes will find the client paused."""

    def resume_reading(self) -> None:
        """Nothing was paused."""
