"""What passes over the sockets between the processes of one deployment, on one machine and of one user.

Each side first sends a greeting, a line of text, and hears the other's before anything else: pickled objects are only
read from a process of the same protocol and program. Then come frames: the length of what follows, the number of the
call, whether it failed, and a pickled object: (actor, method, arguments), or what came of that.
"""

import asyncio
import pickle
from struct import Struct
from typing import Any, NamedTuple

from dualmap import __version__, is_compiled

PROTOCOL = 1
GREETING = f"dualmap {__version__} ({'compiled' if is_compiled() else 'pure Python'}), protocol {PROTOCOL}"
MOST_GREETING_BYTES = 200
MOST_BYTES = 256 * 1024 * 1024  # of a frame: the books of a thousand instances are a tenth of it

_HEAD = Struct(">IQ?")  # length of the object, number of the call, whether it failed


class FrameError(Exception):
    """What came is nothing to go on with; the message says why."""


class Frame(NamedTuple):
    number: int
    failed: bool
    pickled: bytes

    def value(self) -> Any:
        """Raises what unpickling does: anything."""
        return pickle.loads(self.pickled)  # of a process of this user, in a folder of this user's


def frame(number: int, value: object, failed: bool = False) -> bytes:
    """Raises FrameError where the value is too large, or cannot be pickled."""
    try:
        pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever the object's own methods raise
        raise FrameError(f"cannot be sent to another process: {error!r}") from None
    if len(pickled) > MOST_BYTES:
        raise FrameError(f"{len(pickled)} bytes are more than the {MOST_BYTES} that another process takes at once")
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
