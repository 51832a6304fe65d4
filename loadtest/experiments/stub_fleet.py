"""Many model servers that cost next to nothing, for what watching them costs: all in one process.

`python -m dualmap.loadtest.experiments.stub_fleet --count 256 --hanging 10` prints a line with the ports and serves
until it is told to end. All answers are fixed bytes; /metrics has the size and the names of vLLM's. POST /hang makes a
server answer nothing from then on, POST /answer makes it answer again.
"""

import argparse
import asyncio
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import httptools
import uvloop

from dualmap.loadtest.experiments.program import run_as_program

MODULE = "dualmap.loadtest.experiments.stub_fleet"
MODEL = "stub"
HOST = "127.0.0.1"
LOWEST_PORT, PORTS_END = 20_000, 32_000  # below those that the kernel gives to connections
METRICS_BYTES = 48 * 1024  # of vLLM 0.32 with one engine
CALL_TIMEOUT_S = 10.0
_LISTENING = "listening on ports "
_SERIES = (
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total"),
    *("prefix_cache_queries_total", "prefix_cache_hits_total", "prompt_tokens_total", "generation_tokens_total"),
    "iteration_tokens_total_count",
)
_BUCKETS = "time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"
_STREAMED = re.compile(rb'"stream": ?true')


def _whole(body: bytes, content_type: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (content_type, len(body), body)


_USAGE = b'"usage":{"prompt_tokens":50,"completion_tokens":1,"total_tokens":51}'
_CHOICE = b'{"index":0,"message":{"role":"assistant","content":" token"},"text":" token","finish_reason":"length"}'
_PLAIN = _whole(b'{"id":"stub","choices":[%b],%b}' % (_CHOICE, _USAGE))
_EVENTS = (
    b'data: {"id":"stub","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":"length"}]}\n\n'
    b'data: {"id":"stub","choices":[],%b}\n\ndata: [DONE]\n\n' % _USAGE
)
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(_EVENTS), _EVENTS)
)
_HEALTHY = _whole(b"", b"text/plain")
_MODELS = _whole(b'{"object":"list","data":[{"id":"%b","object":"model","max_model_len":32768}]}' % MODEL.encode())


def metrics_text(started_at: float) -> bytes:
    """started_at: of the server, Unix seconds."""
    labels = f'engine="0",model_name="{MODEL}"'
    lines = [f"process_start_time_seconds {started_at}"]
    lines += [f"vllm:{name}{{{labels}}} 0.0" for name in _SERIES]
    lines.append('vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="20000"} 1.0')
    left = METRICS_BYTES - sum(len(line) + 1 for line in lines)
    bound = 0
    while left > 0:
        bound += 1
        for name in _BUCKETS:
            lines.append(f'vllm:{name}_bucket{{{labels},le="{bound}.0"}} 0.0')
            left -= len(lines[-1]) + 1
    return ("\n".join(lines) + "\n").encode()


class Stub:
    """One server. hanging: it takes requests and answers none of them."""

    def __init__(self, place: int, *, hanging: bool) -> None:
        self.hanging = hanging
        self.metrics = _whole(metrics_text(1_700_000_000.0 + place), b"text/plain; version=0.0.4; charset=utf-8")


class _Connection(asyncio.Protocol):
    """Requests on it come one after the other."""

    def __init__(self, stub: Stub) -> None:
        self._stub = stub
        self._url = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        url, body = self._url, self._body
        self._body = b""
        if url in (b"/hang", b"/answer"):
            self._stub.hanging = url == b"/hang"
        elif self._stub.hanging:
            return
        self._transport.write(self._answer(url, body))

    def _answer(self, url: bytes, body: bytes) -> bytes:
        match url:
            case b"/metrics":
                return self._stub.metrics
            case b"/v1/models":
                return _MODELS
        if not body:
            return _HEALTHY
        return _STREAM if _STREAMED.search(body) else _PLAIN


class StubFleet:
    """The process, and where its servers listen."""

    def __init__(self, process: "subprocess.Popen[str]", ports: tuple[int, ...]) -> None:
        self.process = process
        self.ports = ports

    @property
    def urls(self) -> list[str]:
        return [f"http://{HOST}:{port}" for port in self.ports]

    def hang(self, ports: Sequence[int]) -> None:
        for port in ports:
            urllib.request.urlopen(f"http://{HOST}:{port}/hang", b"", timeout=CALL_TIMEOUT_S).close()


@contextmanager
def stub_fleet(count: int, hanging: int = 0) -> Iterator[StubFleet]:
    """hanging: how many answer nothing, the first of them. Raises OSError."""
    command = [sys.executable, "-m", MODULE, "--count", str(count), "--hanging", str(hanging)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith(_LISTENING):
                raise OSError("the stub servers do not start")
            yield StubFleet(process, tuple(map(int, line.removeprefix(_LISTENING).split())))
        finally:
            process.terminate()


def _free_sockets(count: int) -> list[socket.socket]:
    """Bound to ports in a row, but for those that are taken."""
    found: list[socket.socket] = []
    first = random.randrange(LOWEST_PORT, PORTS_END - count)
    for port in (*range(first, PORTS_END), *range(LOWEST_PORT, first)):
        if len(found) == count:
            break
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
            found.append(sock)
        except OSError:
            sock.close()
    return found


async def _serve(count: int, hanging: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    sockets = _free_sockets(count)
    ports = [sock.getsockname()[1] for sock in sockets]
    for place, sock in enumerate(sockets):
        stub = Stub(place, hanging=place < hanging)
        await loop.create_server(lambda stub=stub: _Connection(stub), sock=sock)  # type: ignore[misc]
    print(_LISTENING + " ".join(map(str, ports)), flush=True)
    await stop.wait()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=256, metavar="N", help="servers (256)")
    parser.add_argument("--hanging", type=int, default=0, metavar="N", help="of them, that answer nothing (0)")


def run(args: argparse.Namespace) -> int:
    uvloop.run(_serve(args.count, args.hanging))
    return 0


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
