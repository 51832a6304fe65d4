"""A client that has closed its sending side: it may wait for its answer, or be gone. TCP tells only once something is
sent: a system whose program has closed the connection resets it."""

import select


class HalfClosed:
    """since: in the clock of those who ask."""

    def __init__(self, fd: int, since: float) -> None:
        self._poll = select.poll()
        self._poll.register(fd, 0)  # errors and resets are told in any case
        self._since = self._probed_at = since

    @property
    def was_reset(self) -> bool:
        return bool(self._poll.poll(0))

    def probe_due(self, now: float) -> bool:
        """Whether to send something once more: whenever the time since the client's end has doubled, so that one who
        leaves later is found out in time, with few bytes. The first is sent at the end itself."""
        if now - self._since < 2.0 * (self._probed_at - self._since):
            return False
        self._probed_at = now
        return True
