"""The nemesis: its schedules, its bad network, and one short schedule against a real deployment."""

import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dualmap.loadtest.experiments.nemesis import strike_once
from dualmap.loadtest.experiments.strikes import PARTS, draw_strikes
from dualmap.loadtest.experiments.wire import Wire, WireError, reset_of, wire
from tests.conftest import WAIT_S


def test_a_seed_names_a_schedule() -> None:
    assert draw_strikes(7, 60.0, disk=True, wire=True) == draw_strikes(7, 60.0, disk=True, wire=True)
    drawn = [strike for seed in range(100) for strike in draw_strikes(seed, 60.0, disk=True, wire=True)]
    assert {strike.part for strike in drawn} == {*PARTS, "disk", "wire"}
    assert {strike.how for strike in drawn} >= {"kill", "stop", "end", "fill"}


def checksum_is_right(data: bytes) -> bool:
    """RFC 1071: with its own sum in it, everything adds up to all ones."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return (total & 0xFFFF) + (total >> 16) == 0xFFFF


def test_a_segment_becomes_a_reset_of_its_connection() -> None:
    tcp = struct.pack("!HHIIBBHHH", 40_000, 80, 7, 9, 5 << 4, 0x18, 500, 0, 0) + b"data"
    addresses = bytes((10, 0, 0, 1, 10, 0, 0, 2))
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + addresses + tcp
    reset = reset_of(packet)
    assert struct.unpack_from("!HHIIBB", reset, 20) == (40_000, 80, 7, 9, 5 << 4, 0x14)
    assert len(reset) == 40
    assert checksum_is_right(reset[:20])
    assert checksum_is_right(addresses + struct.pack("!BBH", 0, 6, 20) + reset[20:])


def test_what_is_no_tcp_stays_as_it_is() -> None:
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 28, 1, 0, 64, 17, 0) + bytes(16)
    assert reset_of(packet) == packet


def test_a_connection_passes_a_wire_and_none_passes_one_that_is_cut() -> None:
    try:
        with wire() as made, socket.create_server((made.here, 0)) as listening:
            assert asks(made, listening) == "hello"
            made.inward.cut = True
            assert asks(made, listening) == "timed out"
    except WireError as error:
        pytest.skip(str(error))


def asks(made: Wire, listening: socket.socket) -> str:
    """What a client in the namespace hears from a server here."""
    port = listening.getsockname()[1]
    program = (
        "import socket\n"
        f"try: print(socket.create_connection(('{made.here}', {port}), 2).recv(9).decode())\n"
        "except TimeoutError as error: print(error)"
    )
    threading.Thread(target=answer_one, args=(listening,), daemon=True).start()
    command = made.command(sys.executable, "-c", program)
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True).stdout.strip()


def answer_one(listening: socket.socket) -> None:
    try:
        connection, _ = listening.accept()
    except OSError:  # closed, since nobody came
        return
    with connection:
        connection.sendall(b"hello")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.release
def test_a_short_schedule_against_a_real_deployment_leaves_no_fault(tmp_path: Path) -> None:
    went = strike_once(18, tmp_path, seconds=12.0, qps=4.0)
    assert went.hit
    assert not went.faults, (went.hit, *map(str, went.faults))
    assert went.seen.outcomes["ok"] > 20
