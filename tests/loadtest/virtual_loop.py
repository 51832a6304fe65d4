"""An asyncio loop whose clock stands still while anything happens, and jumps to the next timer when nothing does.

Real servers and clients on sockets of this machine then take no time but what they wait for: a run comes out the same
on a busy machine. Loopback delivers within the system call that sends, so a socket without data has none coming; a
second look, POLL_S later, covers what the kernel puts off.
"""

import asyncio
import selectors
from typing import Any

POLL_S = 0.001  # the least that epoll can wait
OUTSIDE_S = 1.0


class JumpingSelector(selectors.DefaultSelector):
    """now: the loop's clock, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        ready = super().select(OUTSIDE_S if timeout is None else POLL_S)  # without a timer only others can go on
        if not ready and timeout is not None:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now
