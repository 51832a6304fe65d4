"""What an instance says of its own load, against what is booked there: the rest is put on it by others.

An instance that used to say how it does and has fallen silent is taken to be busy, not idle.
"""

from collections import deque

from dualmap.scheduler.record import record

REPORTS_COMPARED = 3  # a report is a moment older than the books: what really is there shows in each of so many
STALE_AFTER_S = 5.0  # five reports missed


@record
class ForeignLoad:
    """Requests of which no gateway knows, those of them that wait for their prefill, and the KV cache they take."""

    requests: int = 0
    waiting: int = 0
    kv_tokens: int = 0


NO_FOREIGN_LOAD = ForeignLoad()


class ReportedLoad:
    """foreign: as of the last report. A silent instance keeps what it had. reported_at: seconds, of the last report;
    None where it never made one, which is not silence. stale: it made some, and neither report nor answer came since
    long."""

    def __init__(self) -> None:
        self.foreign = NO_FOREIGN_LOAD
        self.reported_at: float | None = None
        self.stale = False
        self._seen: deque[ForeignLoad] = deque(maxlen=REPORTS_COMPARED)

    @property
    def speaks(self) -> bool:
        return self.reported_at is not None and not self.stale

    def hear(self, reported: ForeignLoad, booked_requests: int, booked_kv_tokens: int, at: float) -> None:
        """reported: all that is there, whoever sent it. booked: by this gateway and those it hears of."""
        self.reported_at = at
        requests = max(0, reported.requests - booked_requests)
        kv_tokens = max(0, reported.kv_tokens - booked_kv_tokens)
        self._seen.append(ForeignLoad(requests, min(requests, reported.waiting), kv_tokens))
        if len(self._seen) == REPORTS_COMPARED:
            self.foreign = ForeignLoad(
                min(seen.requests for seen in self._seen),
                min(seen.waiting for seen in self._seen),
                min(seen.kv_tokens for seen in self._seen),
            )

    def forget(self) -> None:
        """It says nothing of its load from now on."""
        self.foreign = NO_FOREIGN_LOAD
        self.reported_at = None
        self.stale = False
        self._seen.clear()

    def check(self, answered_at: float, now: float) -> None:
        """Called from time to time. answered_at: when something of an answer last came from there."""
        if self.reported_at is not None:
            self.stale = now - max(self.reported_at, answered_at) > STALE_AFTER_S
