"""What other gateways have booked on an instance, as they said last."""

from dataclasses import replace
from math import inf

from dualmap.scheduler.events import InstanceLoad

FRESH_S = 0.3  # three times the interval at which gateways tell each other what they have booked
KEPT_S = 5.0  # what was said longer ago says nothing
# A request that came so much earlier in another gateway goes first. For less, an instance is not left without work
# until the other gateway hears that it has room.
YIELD_AFTER_S = 0.3
MAX_YIELD_S = 0.2  # that room is left to another gateway, as far as is heard, and it does not use it


class Others:
    """load: what they said, at `heard_at`; None where they have nothing. The numbers are its, 0 where it is None."""

    def __init__(self) -> None:
        self.heard_at = 0.0
        self._aged_at = 0.0  # until when the work that others had here is counted as done
        self._unused_since = inf  # when room that others could use was heard of
        self._set(None)

    def _set(self, load: InstanceLoad | None) -> None:
        self.load = load
        self.running = 0 if load is None else load.running
        self.prefilling_tokens = 0 if load is None else load.prefilling_tokens
        self.waiting_tokens = 0 if load is None else load.waiting_tokens
        self.kv_tokens = 0 if load is None else load.kv_tokens
        self.waiting = 0 if load is None else load.waiting

    @property
    def work(self) -> bool:
        """Requests of other gateways wait for the instance, or compute their prompts there."""
        return self.waiting > 0 or self.prefilling_tokens > 0

    def hear(self, load: InstanceLoad | None, at: float) -> None:
        """What they had booked here at that moment. None: nothing."""
        self._set(load)
        self.heard_at = at
        self._aged_at = at + FRESH_S

    def note_unused(self, unused: bool) -> None:
        """Whether there was room when they were last heard, which they wait for."""
        self._unused_since = min(self._unused_since, self.heard_at) if unused else inf

    def age(self, now: float, seconds_per_token: float) -> bool:
        """Whether their bookings are taken to be less than they were: nothing was heard of them for a while, in which
        the instance went on with its work."""
        if self.load is None or now <= self._aged_at:
            return False
        if now - self.heard_at > KEPT_S:
            self._set(None)
        else:
            done = int((now - self._aged_at) / seconds_per_token)
            self._aged_at = now
            prefilling_tokens = max(0, self.prefilling_tokens - done)
            self._set(replace(self.load, prefilling_tokens=prefilling_tokens, head_age_s=None))
        return True

    @property
    def head_age_s(self) -> float | None:
        """Of the request that may come before those of this gateway; None where there is none. After a while in which
        nobody used the room, there is none."""
        if self.load is None or self.heard_at - self._unused_since > MAX_YIELD_S:
            return None
        return self.load.head_age_s

    def come_first(self, age_s: float | None, now: float) -> bool:
        """Whether room belongs to a request that waits in another gateway before one of this age (InstanceLoad)."""
        theirs_s = self.head_age_s
        if theirs_s is None:
            return False
        return age_s is None or age_s + YIELD_AFTER_S < theirs_s + now - self.heard_at
