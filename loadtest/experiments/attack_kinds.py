"""What a client can do that means harm: each an attack on a gateway's port, bounded in count and time."""

import gzip
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress

HOST = "127.0.0.1"
SOCKET_TIMEOUT_S = 30.0
PIECE = 1 << 20
MIB = 1 << 20
CHAT = b'{"model":"stub","messages":[{"role":"user","content":'
Attack = Callable[[int], str]  # takes the port, returns what came of it


def _connect(port: int) -> socket.socket:
    return socket.create_connection((HOST, port), SOCKET_TIMEOUT_S)


def _head(path: str, lines: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n%b\r\n" % (path.encode(), lines)


def _status(connection: socket.socket) -> str:
    """Of the answer, or how it ended."""
    try:
        answer = connection.recv(65536)
    except OSError as error:
        return type(error).__name__
    return answer[9:12].decode() or "closed"


def _send(port: int, head: bytes, pieces: Callable[[int], bytes], count: int) -> str:
    """The status of the answer to a head and so many pieces of a body, or to as many as are taken."""
    with _connect(port) as connection:
        with suppress(OSError):
            connection.sendall(head)
            for number in range(count):
                connection.sendall(pieces(number))
        return _status(connection)


def _body(path: str, body: bytes, lines: bytes = b"") -> Attack:
    head = _head(path, b"content-length: %d\r\n%b" % (len(body), lines))
    return lambda port: _send(port, head, lambda _: body, 1)


def _filled(size: int, before: bytes, unit: bytes, behind: bytes) -> bytes:
    count = (size - len(before) - len(behind)) // (len(unit) + 1)
    return before + b",".join([unit] * count) + behind


def idle_connections(port: int) -> str:
    with ExitStack() as stack:
        for _ in range(5_000):
            stack.enter_context(_connect(port))
        return "5,000 open"


def pipelined_requests(port: int) -> str:
    wanted, request = 10_000, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    with _connect(port) as connection:
        got = 0
        for _ in range(100):
            connection.sendall(request * (wanted // 100))
            got += connection.recv(MIB).count(b"200 OK")
        while got < wanted and (piece := connection.recv(MIB)):
            got += piece.count(b"200 OK")
    return f"{got} answered"


def endless_body(port: int) -> str:
    chunk = b"%x\r\n%b\r\n" % (PIECE, bytes(PIECE))
    return _send(port, _head("/v1/chat/completions", b"transfer-encoding: chunked\r\n"), lambda _: chunk, 2048)


def tiny_chunks(port: int) -> str:
    """8 MB of them, and more than the body may have in the end."""
    chunks = b"2\r\n{}\r\n" * (PIECE // 7)
    large = b"%x\r\n%b\r\n" % (PIECE, bytes(PIECE))
    head = _head("/v1/chat/completions", b"transfer-encoding: chunked\r\n")
    return _send(port, head, lambda number: chunks if number < 28 else large, 28 + 16)


def long_head(port: int) -> str:
    return _send(port, b"GET /health HTTP/1.1\r\nhost: x\r\n", lambda n: b"x-%d: %b\r\n" % (n, b"a" * 1000), 1000)


def many_fields(port: int) -> str:
    return _send(port, b"GET /health HTTP/1.1\r\nhost: x\r\n", lambda n: b"a:\r\n" * 1000, 250)


def bombs(port: int) -> str:
    packed = gzip.compress(b'{"a":' + b" " * (16 * MIB))
    head = _head("/v1/chat/completions", b"content-encoding: gzip\r\ncontent-length: %d\r\n" % len(packed))
    return " ".join({_send(port, head, lambda _: packed, 1) for _ in range(20)})


def slow(*flags: str) -> Attack:
    """slowhttptest, 1,000 connections for 20 s."""

    def run(port: int) -> str:
        url = f"http://{HOST}:{port}/v1/chat/completions"
        command = ["slowhttptest", *flags, "-c", "1000", "-r", "200", "-l", "20", "-p", "3", "-u", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = [line for line in done.stdout.splitlines() if "service available" in line]
        return "available" if said and "YES" in said[-1] else "not available"

    return run


def attacks(size_mib: int) -> dict[str, Attack]:
    """size_mib: of large bodies."""
    size, chat, responses = size_mib * MIB, "/v1/chat/completions", "/v1/responses"
    half = size // 2 - 100
    kinds: dict[str, Attack] = {
        "5,000 idle connections": idle_connections,
        "10,000 pipelined requests": pipelined_requests,
        "2 GB in chunks": endless_body,
        "chunks of two bytes": tiny_chunks,
        "a head of a megabyte": long_head,
        "250,000 fields": many_fields,
        "20 gzip bombs, 16 KiB each": bombs,
        "words": _body(chat, CHAT + b'"' + b"words and " * (size // 10 - 10) + b'"}]}'),
        "tiny parts": _body(chat, _filled(size, CHAT + b"[", b"{}", b"]}]}")),
        "tiny numbers as parts": _body(chat, _filled(size, CHAT + b"[", b"0", b"]}]}")),
        "tiny messages": _body(chat, _filled(size, b'{"model":"stub","messages":[', b'{"role":""}', b"]}")),
        "tiny pictures": _body(chat, _filled(size, CHAT + b'{"a":[', b'"data:video/"', b"]}}]}")),
        "tiny items": _body(responses, _filled(size, b'{"model":"stub","input":[', b"{}", b"]}")),
        "tiny tools": _body(chat, _filled(size, CHAT + b'"a"}],"tools":[', b"{}", b"]}")),
        "tiny prompts": _body("/v1/completions", _filled(size, b'{"model":"stub","prompt":[', b"[1]", b"]}")),
        "one deep nest": _body(chat, CHAT + b"[" * half + b"]" * half + b"}]}"),
        "many deep nests": _body(chat, _filled(size, CHAT + b"[", b"[" * 400 + b"]" * 400, b"]}]}")),
        "a number of megabytes": _body(chat, CHAT + b"1" * size + b"}]}"),
        "numbers of 4,299 digits": _body(chat, _filled(size, CHAT + b"[", b"9" * 4299, b"]}]}")),
        "NaN and tiny numbers": _body(chat, _filled(size, CHAT + b'"a"}],"a":NaN,"b":[', b"1", b"]}")),
        "half surrogates": _body(chat, CHAT + b'"' + b"\\ud800" * (size // 6 - 20) + b'"}]}'),
    }
    if shutil.which("slowhttptest"):
        kinds |= {
            "slow heads (slowhttptest -H)": slow("-H", "-i", "2"),
            "slow bodies (slowhttptest -B)": slow("-B", "-i", "2", "-s", "8192"),
            "slow readers (slowhttptest -X)": slow("-X", "-k", "3", "-n", "2", "-w", "10", "-y", "20", "-z", "8"),
        }
    return kinds
