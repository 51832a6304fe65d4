"""What passes over the sockets between the processes of one deployment, on one machine and of one user.

Each side first sends a greeting, a line of text, and hears the other's before anything else: pickled objects are only
read from a process of the same protocol and program. Then come frames: the length of what follows, the number of the
call, whether it failed, and a pickled object: a call, or what came of it (router/reach/packed.py).
"""

import asyncio
from struct import Struct
from typing import NamedTuple

from dualmap import __version__, is_compiled
from dualmap.router.reach.packed import MOST_BYTES

PROTOCOL = 1
GREETING = f"dualmap {__version__} ({'compiled' if is_compiled() else 'pure Python'}), protocol {PROTOCOL}"
MOST_GREETING_BYTES = 200

_HEAD = Struct(">IQ?")  # length of the object, number of the call, whether it failed


class FrameError(Exception):
    """What came is nothing to go on with; the message says why."""


class Frame(NamedTuple):
    number: int
    failed: bool
    pickled: bytes


def frame(number: int, pickled: bytes, failed: bool = False) -> bytes:
    return _HEAD.pack(len(pickled), number, failed) + pickled


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next one; None at the end, however it came. Raises FrameError."""
    try:
        length, number, failed = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        if length > MOST_BYTES:
            raise FrameError(f"a frame of {length} bytes: more than {MOST_BYTES}")
        return Frame(number, failed, await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError):
        return None


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Returns once the other side has shown that it is the same program. Raises FrameError."""
    writer.write(f"{GREETING}\n".encode())
    try:
        line = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        raise FrameError("it ended before it had said what it is") from None
    heard = line[:MOST_GREETING_BYTES].decode(errors="replace").strip()
    if heard != GREETING:
        raise FrameError(
            f"one process is of {heard}, the other of {GREETING}: the program was changed while it runs; start"
            " `dualmap up` again"
        )
