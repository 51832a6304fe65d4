"""The connections to one instance: the one used last is used next, those unused for a while are closed."""

import asyncio
from collections.abc import Callable

from dualmap.router.http.answer_sink import AnswerSink
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.upstream import UpstreamConnection
from dualmap.scheduler.events import FailureCause


class UpstreamPool:
    """host_line: what follows the target in a request to the instance. answer_lines: headers that name the instance."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        instance_id: str,
        host: str,
        port: int,
        limits: HttpLimits,
        clock: Callable[[], float],
    ) -> None:
        self.instance_id = instance_id
        self.address = (host, port)
        self.authority = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        self.host_line = b" HTTP/1.1\r\nhost: %b\r\n" % self.authority
        self.answer_lines = f"x-dualmap-instance: {instance_id}\r\nx-dualmap-queue-ms: ".encode()
        self._loop = loop
        self.limits = limits
        self._clock = clock
        self._idle: list[UpstreamConnection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._closed = False

    def run(self, sink: AnswerSink) -> None:
        """Send the sink's request over a kept-alive connection, or a new one where there is none."""
        idle = self._idle
        oldest = self._clock() - self.limits.upstream_idle_s
        while idle:
            connection = idle.pop()
            if connection.usable:
                if connection.idle_since > oldest:
                    connection.run(sink, sink.head_for(self.host_line), sink.body)
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
        if self._closed or len(self._idle) >= self.limits.max_upstream_idle:
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

    def close(self) -> None:
        """Close what is idle; what still runs closes when it is through."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _open(self, sink: AnswerSink) -> None:
        host, port = self.address
        try:
            async with asyncio.timeout(self.limits.connect_timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self, self._clock), host, port
                )
        except OSError:  # TimeoutError is one
            sink.attempt_failed(FailureCause.CONNECT)
            return
        connection.run(sink, sink.head_for(self.host_line), sink.body)


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
