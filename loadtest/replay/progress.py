"""One line that says how a replay goes: rewritten in place on a terminal, a new one every few seconds elsewhere."""

import os
import sys
from typing import TextIO

import gevent
from locust.env import Environment

from dualmap.loadtest.replay.open_loop import OpenLoop
from dualmap.loadtest.replay.run_file import Outcome

_TERMINAL_PERIOD_S = 0.5
_PLAIN_PERIOD_S = 5.0


class Progress:
    """Writes to stderr until killed. Also stops the run if the process that started it has died."""

    def __init__(self, replay: OpenLoop, environment: Environment, label: str, path: str, total: int) -> None:
        self._replay = replay
        self._environment = environment
        self._label = label
        self._path = path
        self._total = total
        self._parent = os.getppid()
        self._out: TextIO = sys.stderr

    def follow(self) -> None:
        on_terminal = self._out.isatty()
        while True:
            gevent.sleep(_TERMINAL_PERIOD_S if on_terminal else _PLAIN_PERIOD_S)
            if os.getppid() != self._parent:
                self._replay.stop("the process that started the replay is gone")
            self._write("\r\x1b[K" if on_terminal else "", "" if on_terminal else "\n")

    def finish(self) -> None:
        self._write("\r\x1b[K" if self._out.isatty() else "", "\n")

    def _write(self, before: str, after: str) -> None:
        self._out.write(before + self.line() + after)
        self._out.flush()

    def line(self) -> str:
        replay = self._replay
        ok = replay.outcomes[Outcome.OK]
        shed = replay.outcomes[Outcome.SHED]
        ttft = self._environment.stats.get(self._path, "TTFT")
        shown = (
            f"{self._label}: {replay.now_s:.0f} s, {replay.released}/{self._total} sent, {replay.in_flight} in flight, "
        )
        shown += f"{ok} ok, {shed} shed, {replay.ended - ok - shed} failed"
        if ttft.num_requests:
            p50, p90 = (ttft.get_response_time_percentile(share) / 1000 for share in (0.5, 0.9))
            shown += f", TTFT P50 {p50:.2f} s P90 {p90:.2f} s"
        return shown
