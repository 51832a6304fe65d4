"""The open-loop replay itself: a greenlet for each request in flight, released by the trace's clock.

Only the replay process imports this module (process.py). Chunks are read in gevent's event loop and parsed
by httptools, without an HTTP client library: the client shares its cores with the servers it measures.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

import gevent
import gevent.event
import gevent.socket
from locust.env import Environment
from locust.exception import LocustError

from dualmap.loadtest.replay.pace import Pace, due_times
from dualmap.loadtest.replay.request_body import STREAMS, RequestBytes
from dualmap.loadtest.replay.run_file import Outcome, RequestRow, RunHeader, write_row
from dualmap.loadtest.replay.stream_reader import StreamReader
from dualmap.loadtest.traces.describe import quantile
from dualmap.loadtest.traces.trace import TraceRequest

_READ_BYTES = 65536
_READABLE = 1  # event mask of gevent's io watchers


@dataclass(slots=True)
class _Flight:
    """A request that was released and has not ended."""

    released_s: float
    reader: StreamReader
    sent_s: float | None = None


class OpenLoop:
    """Replays a trace once and writes a row for each request, whatever happens.

    Fires locust's `request` event twice a request: named after the path with the end-to-end time, and as type "TTFT".
    """

    def __init__(
        self,
        environment: Environment,
        header: RunHeader,
        requests: Sequence[TraceRequest],
        after: Sequence[int | None],
        address: tuple[str, int],
        out: IO[bytes],
    ) -> None:
        self._environment = environment
        self._header = header
        self._requests = requests
        self._after = after
        self._due_s = due_times(requests, header.speed)
        self._pace = Pace(self._due_s, after)
        self._address = address
        self._out = out
        self._bytes = RequestBytes(f"{address[0]}:{address[1]}", header.path, header.model, token_ids=header.token_ids)
        self._rules = STREAMS[header.path]
        self._flights: dict[int, _Flight] = {}
        self._greenlets: set[gevent.Greenlet] = set()
        self._wake = gevent.event.Event()
        self._origin = 0.0
        self.stopped_because = ""
        self.outcomes = dict.fromkeys(Outcome, 0)

    @property
    def now_s(self) -> float:
        return time.perf_counter() - self._origin

    @property
    def in_flight(self) -> int:
        return len(self._flights)

    @property
    def ended(self) -> int:
        return sum(self.outcomes.values())

    @property
    def released(self) -> int:
        return self._pace.released

    def stop(self, reason: str) -> None:
        """End the run now; requests that have not ended get the outcome `unfinished`."""
        self.stopped_because = self.stopped_because or reason
        self._wake.set()

    def run(self) -> None:
        """Returns when every request has a row."""
        self._origin = time.perf_counter()
        while self.ended < len(self._requests) and not self.stopped_because:
            self._send(self._pace.release(self.now_s))
            due_s = self._pace.next_due_s()
            limit_s = self._header.time_limit_s
            self._wake.clear()
            self._wake.wait(max((limit_s if due_s is None else min(due_s, limit_s)) - self.now_s, 0))
            if self.now_s >= limit_s and self.ended < len(self._requests):
                self.stop("time limit")
        gevent.killall(list(self._greenlets))
        for index in sorted(self._flights):
            self._end(index, Outcome.UNFINISHED, self.stopped_because)
        for index in self._pace.never_released():
            self._write(index, Outcome.UNFINISHED, self.stopped_because, None)

    def _send(self, indices: list[int]) -> None:
        for index in indices:
            self._flights[index] = _Flight(self.now_s, StreamReader(self._rules))
            greenlet = gevent.spawn(self._exchange, index)
            self._greenlets.add(greenlet)
            greenlet.link(self._greenlets.discard)

    def _exchange(self, index: int) -> None:
        """One request from its release to its outcome."""
        flight = self._flights[index]
        connection = None
        timeout = gevent.Timeout.start_new(self._header.request_timeout_s)
        try:
            payload = self._bytes.build(self._requests[index])
            try:
                connection = gevent.socket.create_connection(self._address)
            except OSError as error:
                self._end(index, Outcome.CONNECT_ERROR, str(error))
                return
            connection.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
            connection.sendall(payload)
            flight.sent_s = self.now_s
            self._read(connection, flight.reader)
            self._end(index, *flight.reader.outcome()[:2])
        except gevent.Timeout:
            self._end(index, Outcome.TIMEOUT, f"no end within {self._header.request_timeout_s:g} s")
        except Exception as error:  # whatever it is, the request has a row
            outcome, detail, _ = flight.reader.outcome()
            # a server may refuse a request and close before it has read all of it
            refused = outcome in (Outcome.SHED, Outcome.HTTP_ERROR)
            self._end(index, outcome if refused else Outcome.BROKEN, detail if refused else repr(error))
        finally:
            timeout.close()
            if connection is not None:
                connection.close()

    def _read(self, connection: gevent.socket.socket, reader: StreamReader) -> None:
        """Feed the reader until the answer is complete or the connection ends.

        The bytes are read in the event loop's own callback: a chunk costs no switch to this greenlet and back.
        """
        ended: gevent.event.AsyncResult = gevent.event.AsyncResult()
        connection.setblocking(False)

        def on_readable() -> None:
            try:
                data = connection.recv(_READ_BYTES)
                if data:
                    reader.feed(data, time.perf_counter())
                if reader.complete or not data:
                    ended.set()
            except BlockingIOError:
                pass
            except Exception as error:  # raised where the answer is awaited
                ended.set_exception(error)

        watcher = gevent.get_hub().loop.io(connection.fileno(), _READABLE)
        watcher.start(on_readable)
        try:
            ended.get()
        finally:
            watcher.stop()
            watcher.close()

    def _end(self, index: int, outcome: Outcome, detail: str) -> None:
        self._write(index, outcome, detail, self._flights.pop(index))
        following = self._pace.end(index)
        if not self.stopped_because:
            self._send(following)
            if self.ended == len(self._requests):
                self._wake.set()

    def _write(self, index: int, outcome: Outcome, detail: str, flight: _Flight | None) -> None:
        request = self._requests[index]
        self.outcomes[outcome] += 1
        if flight is None:
            row = RequestRow(
                index=index,
                outcome=outcome,
                detail=detail,
                scheduled_s=self._due_s[index],
                after=self._after[index],
                trace_input_tokens=request.input_length,
                trace_output_tokens=request.output_length,
                hash_ids=request.hash_ids,
            )
        else:
            row = self._row(index, request, outcome, detail, flight)
            self._tell_locust(row, flight.reader.body_bytes)
        write_row(self._out, row)

    def _row(self, index: int, request: TraceRequest, outcome: Outcome, detail: str, flight: _Flight) -> RequestRow:
        reader = flight.reader
        usage = reader.outcome()[2]
        gaps_s = sorted(reader.gaps_s)
        first_token_s = None
        if reader.status == 200 and reader.first_token_at is not None and outcome is not Outcome.SHED:
            first_token_s = reader.first_token_at - self._origin
        completion_tokens = usage.completion_tokens if usage else None
        return RequestRow(
            index=index,
            outcome=outcome,
            scheduled_s=self._due_s[index],
            released_s=flight.released_s,
            sent_s=flight.sent_s,
            held_back_s=flight.released_s - self._due_s[index] if self._after[index] is not None else 0.0,
            ttft_s=None if first_token_s is None else first_token_s - flight.released_s,
            mean_inter_token_s=reader.mean_inter_token_s(completion_tokens),
            p99_inter_token_s=quantile(gaps_s, 0.99) if gaps_s else None,
            max_inter_token_s=gaps_s[-1] if gaps_s else None,
            e2e_s=self.now_s - flight.released_s,
            status=reader.status,
            detail=detail,
            after=self._after[index],
            trace_input_tokens=request.input_length,
            trace_output_tokens=request.output_length,
            hash_ids=request.hash_ids,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=completion_tokens,
            cached_tokens=usage.cached_tokens if usage else None,
            instance=reader.header(b"x-dualmap-instance"),
            queue_ms=_number(reader.header(b"x-dualmap-queue-ms")),
            request_id=reader.header(b"x-request-id"),
        )

    def _tell_locust(self, row: RequestRow, body_bytes: int) -> None:
        failure = None if row.outcome is Outcome.OK else LocustError(f"{row.outcome}: {row.detail}")
        fire: Callable[..., None] = self._environment.events.request.fire
        common = {"name": self._header.path, "response_length": body_bytes, "context": {"row": row}}
        fire(request_type="POST", response_time=(row.e2e_s or 0.0) * 1000, exception=failure, **common)
        if row.ttft_s is not None:
            fire(request_type="TTFT", response_time=row.ttft_s * 1000, exception=None, **common)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
