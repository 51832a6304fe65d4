"""What a gateway keeps of requests that are over: `python -m dualmap.loadtest.experiments.memory_kept`.

A gateway without Ray serves requests of 8 KB to 2 MB, plain and streamed, over kept connections and over ones that are
closed after their answer. Its resident memory and file descriptors are read after 1,000 requests and after the last,
each time when all connections of clients have ended.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
import uvloop

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.overhead.backend import MODEL
from dualmap.loadtest.overhead.measured_proxy import DEFAULT_GATEWAY, MeasuredProxy, ProxyError, backends, gateway
from dualmap.loadtest.reports.aligned_rows import aligned

LEAST_BYTES, MOST_BYTES = 8 * 1024, 2 * 1024 * 1024
FIRST_REQUESTS = 1_000  # caches, books and allocators have what they need by then
MOST_MORE_MIB = 20.0
REQUESTS_KEPT = 20  # over one kept connection
CLOSED_SHARE = 0.5
STREAMED_SHARE = 0.5
SETTLE_S = 1.5  # sweeps and unused connections to instances end meanwhile
IDLE_UPSTREAM_S = 5.0
TIMEOUT_S = 60.0
MIB = 1024 * 1024
BEFORE = b'{"model":"%b","messages":[{"role":"user","content":"' % MODEL.encode()
FILLER = b"lorem ipsum dolor sit amet " * (MOST_BYTES // 27 + 1)


@dataclass(frozen=True, slots=True)
class Kept:
    """Of the gateway's process, when nothing is under way. sent_bytes: of all requests so far."""

    requests: int
    sent_bytes: int
    rss_mib: float
    fds: int


class Drawn:
    """The requests, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def body(self) -> bytes:
        """Most are small, as prompts are: the logarithm of the size grows with the cube of an even number."""
        size = round(LEAST_BYTES * (MOST_BYTES / LEAST_BYTES) ** (self._random.random() ** 3))
        streamed = b"true" if self._random.random() < STREAMED_SHARE else b"false"
        end = b'"}],"max_tokens":2,"stream":%b}' % streamed
        return b"%b%016x%b%b" % (BEFORE, self._random.getrandbits(64), FILLER[:size], end)

    def requests_of_a_connection(self) -> int:
        return 1 if self._random.random() < CLOSED_SHARE else REQUESTS_KEPT


class Load:
    """Requests at a time: so many. outcomes: by the answer's status, or what went wrong."""

    def __init__(self, port: int, at_a_time: int, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.sent = 0
        self.sent_bytes = 0
        self._port = port
        self._at_a_time = at_a_time
        self._drawn = Drawn(seed)

    async def run_until(self, requests: int) -> None:
        """Returns when so many have been sent in all, and each connection has ended."""
        await asyncio.gather(*(self._client(requests) for _ in range(self._at_a_time)))

    async def _client(self, requests: int) -> None:
        while self.sent < requests:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._connection(requests)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.outcomes[type(error).__name__] += 1

    async def _connection(self, requests: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            left = min(self._drawn.requests_of_a_connection(), requests - self.sent)
            while left and self.sent < requests:
                left -= 1
                await self._request(reader, writer, close=not left)
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, close: bool) -> None:
        body = self._drawn.body()
        self.sent += 1
        self.sent_bytes += len(body)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(body)
        writer.write(head + (b"connection: close\r\n\r\n" if close else b"\r\n"))
        writer.write(body)
        await writer.drain()
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        self.outcomes[answer.split(b" ", 2)[1].decode()] += 1
        if b"transfer-encoding: chunked" in answer:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
            await reader.readexactly(2)
        else:
            length = answer.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))


async def measure(
    proxy: MeasuredProxy, stops: Sequence[int], at_a_time: int, seed: int, settle_s: float = IDLE_UPSTREAM_S + SETTLE_S
) -> tuple[list[Kept], Load]:
    """stops: after how many requests it is looked, and settle_s after the last connection's end."""
    process = psutil.Process(proxy.pid)
    load = Load(proxy.port, at_a_time, seed)
    kept = []
    for stop in stops:
        await load.run_until(stop)
        await asyncio.sleep(settle_s)
        kept.append(Kept(load.sent, load.sent_bytes, process.memory_info().rss / MIB, process.num_fds()))
        print(f"after {stop:,} requests: {kept[-1].rss_mib:.1f} MiB, {kept[-1].fds} file descriptors", flush=True)
    return kept, load


def table(kept: Sequence[Kept]) -> Iterator[Sequence[str]]:
    yield ("requests", "sent in all", "resident", "more than first", "file descriptors")
    for look in kept:
        yield (
            f"{look.requests:,}",
            f"{look.sent_bytes / MIB / 1024:.2f} GiB",
            f"{look.rss_mib:.1f} MiB",
            f"{look.rss_mib - kept[0].rss_mib:+.1f} MiB",
            str(look.fds),
        )


def is_kept_small(kept: Sequence[Kept]) -> bool:
    """Whether the last look shows no more than the first, but for what an allocator does."""
    first, last = kept[0], kept[-1]
    return last.rss_mib - first.rss_mib <= MOST_MORE_MIB and last.fds <= first.fds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=100_000, metavar="N", help="in all (100,000)")
    parser.add_argument("--at-a-time", type=int, default=16, metavar="N", help="connections (16)")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="of sizes and kinds (7)")
    parser.add_argument("--gateway", default=DEFAULT_GATEWAY, metavar="COMMAND", help="as in the overhead benchmark")


def run(args: argparse.Namespace) -> int:
    """1 if memory or descriptors stay, or a request failed."""
    first = min(FIRST_REQUESTS, args.requests)
    stops = sorted({first, *(first * factor for factor in (10, 30) if first * factor < args.requests), args.requests})
    begun_at = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder, ports = Path(name), free_ports("127.0.0.1", 2)
            with backends(ports, folder), gateway(args.gateway, ports, folder) as proxy:
                kept, load = uvloop.run(measure(proxy, stops, args.at_a_time, args.seed))
    except ProxyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{date.today().isoformat()}, {time.monotonic() - begun_at:.0f} s, answers: {dict(load.outcomes)}\n")
    print("\n".join(aligned(list(table(kept)))))
    return 0 if is_kept_small(kept) and set(load.outcomes) == {"200"} else 1


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
