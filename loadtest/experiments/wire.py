"""A bad network on one machine: a network namespace that is reached over two tun devices, and what carries packets
between them, which can lose, delay, drop or reset. Linux only, and for root.

The kernel's own netem is not everywhere; this needs /dev/net/tun and `ip`.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
PREFIX = 30  # bits
PACKET_BYTES = 65536
TCP, RST, ACK = 6, 0x04, 0x10
WAIT_S = 0.05


class WireError(Exception):
    """It cannot be had here; the message says why."""


@dataclass(slots=True)
class Weather:
    """Of one direction. loss: share of packets. delay_s: each is so late. cut: none comes through. reset: connections
    that send anything are reset at the other end."""

    loss: float = 0.0
    delay_s: float = 0.0
    cut: bool = False
    reset: bool = False


class Wire:
    """outward: towards the namespace. inward: back. here, there: addresses of the two ends."""

    def __init__(self, namespace: str, near: int, far: int, here: str, there: str, seed: int) -> None:
        self.namespace = namespace
        self.here, self.there = here, there
        self.outward, self.inward = Weather(), Weather()
        self._ends = {near: (far, self.outward), far: (near, self.inward)}
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def clear(self) -> None:
        for weather in (self.outward, self.inward):
            weather.loss, weather.delay_s, weather.cut, weather.reset = 0.0, 0.0, False, False

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def command(self, *command: str) -> list[str]:
        """That runs it inside."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def _carry(self) -> None:
        under_way: list[tuple[float, int, int, bytes]] = []
        count = 0
        while not self._stop.is_set():
            wait_s = max(0.0, min(WAIT_S, under_way[0][0] - time.monotonic())) if under_way else WAIT_S
            readable, _, _ = select.select(list(self._ends), [], [], wait_s)
            now = time.monotonic()
            for end in readable:
                packet = os.read(end, PACKET_BYTES)
                other, weather = self._ends[end]
                if weather.cut or self._random.random() < weather.loss:
                    continue
                if weather.reset:
                    packet = reset_of(packet)
                count += 1
                heapq.heappush(under_way, (now + weather.delay_s, count, other, packet))
            while under_way and under_way[0][0] <= now:
                _, _, other, packet = heapq.heappop(under_way)
                os.write(other, packet)


def reset_of(packet: bytes) -> bytes:
    """The same TCP segment without data, as a reset; what is none stays as it is."""
    head_bytes = (packet[0] & 0x0F) * 4
    if packet[0] >> 4 != 4 or packet[9] != TCP:
        return packet
    source, target, sequence, answered = struct.unpack_from("!HHII", packet, head_bytes)
    segment = struct.pack("!HHIIBBHHH", source, target, sequence, answered, 5 << 4, RST | ACK, 0, 0, 0)
    pseudo = packet[12:20] + struct.pack("!BBH", 0, TCP, len(segment))
    segment = segment[:16] + struct.pack("!H", _checksum(pseudo + segment)) + segment[18:]
    head = bytearray(packet[:head_bytes])
    struct.pack_into("!H", head, 2, head_bytes + len(segment))
    struct.pack_into("!H", head, 10, 0)
    struct.pack_into("!H", head, 10, _checksum(bytes(head)))
    return bytes(head) + segment


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@contextmanager
def wire(seed: int = 0) -> Iterator[Wire]:
    """Raises WireError."""
    if sys.platform != "linux" or os.geteuid():
        raise WireError("network namespaces need Linux, and root")
    number = os.getpid()  # so that several can be had at once
    namespace, near_name, far_name = f"dualmap-{number}", f"dmn{number}", f"dmf{number}"
    here, there = (f"10.{200 + number // 250 % 50}.{number % 250}.{end}" for end in (1, 2))
    with ExitStack() as undo:
        _ip("netns", "add", namespace)
        undo.callback(_ip, "netns", "del", namespace)
        near, far = _tun(near_name, undo), _tun(far_name, undo)
        _ip("link", "set", far_name, "netns", namespace)
        _ip("addr", "add", f"{here}/{PREFIX}", "dev", near_name)
        _ip("link", "set", near_name, "up")
        _ip("-n", namespace, "addr", "add", f"{there}/{PREFIX}", "dev", far_name)
        _ip("-n", namespace, "link", "set", far_name, "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        made = Wire(namespace, near, far, here, there, seed)
        undo.callback(made.close)
        yield made


def _tun(name: str, undo: ExitStack) -> int:
    """Raises WireError."""
    try:
        end = os.open("/dev/net/tun", os.O_RDWR)
        undo.callback(os.close, end)
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    except OSError as error:
        raise WireError(f"/dev/net/tun: {error.strerror}") from None
    return end


def _ip(*arguments: str) -> None:
    """Raises WireError."""
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise WireError(f"ip: {error.strerror}") from None
    if done.returncode:
        raise WireError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
