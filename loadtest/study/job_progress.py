"""One line that says how far a study is: rewritten in place on a terminal, one every few seconds elsewhere."""

import sys
import time
from typing import TextIO

_TERMINAL_PERIOD_S = 0.2
_PLAIN_PERIOD_S = 10.0
_WIDTH = 24


class JobProgress:
    """weight: of all jobs together, in any unit that grows with the time they take."""

    def __init__(self, total: int, weight: float, what: str, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._on_terminal = self._out.isatty()
        self._total = total
        self._weight = weight
        self._weight_done = 0.0
        self._what = what
        self._done = 0
        self._runs = 0
        self._last = ""
        self._began_s = time.monotonic()
        self._next_s = self._began_s

    def ran(self, text: str) -> None:
        """One more run, of many or one to a job."""
        self._runs += 1
        self._last = text

    def finished(self, weight: float) -> None:
        self._done += 1
        self._weight_done += weight

    def show(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + (_TERMINAL_PERIOD_S if self._on_terminal else _PLAIN_PERIOD_S)
            self._write("" if self._on_terminal else "\n")

    def end(self) -> None:
        self._write("\n")

    def line(self) -> str:
        elapsed_s = time.monotonic() - self._began_s
        share = self._weight_done / self._weight
        full = int(_WIDTH * share)
        shown = f"[{'#' * full}{'.' * (_WIDTH - full)}] {self._done}/{self._total} {self._what}, {self._runs} runs"
        shown += f", {clock(elapsed_s)}"
        if self._done and self._done < self._total:
            shown += f", about {clock(elapsed_s * (1 / share - 1))} left"
        return f"{shown}  {self._last}" if self._last else shown

    def _write(self, after: str) -> None:
        before = "\r\x1b[K" if self._on_terminal else ""
        self._out.write(before + self.line() + after)
        self._out.flush()


def clock(seconds: float) -> str:
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}" if hours else f"{minutes}:{rest_s:02}"
