"""Requests and tokens a minute, as token buckets that hold one minute's worth."""

from dataclasses import dataclass
from math import ceil, inf

MINUTE_S = 60.0


class Bucket:
    """Refills evenly. It may be overdrawn by what is known only afterwards; then it takes longer to refill."""

    __slots__ = ("_at", "_level", "per_minute", "share")

    def __init__(self, per_minute: float | None, now: float) -> None:
        self.per_minute = inf if per_minute is None else per_minute
        self.share = 1.0  # of the limit that is granted here, where others grant the rest
        self._level = self.per_minute
        self._at = now

    @property
    def limit(self) -> float:
        return self.per_minute * self.share

    def level(self, now: float) -> float:
        if self.per_minute == inf:
            return inf
        self._level = min(self.limit, self._level + (now - self._at) * self.limit / MINUTE_S)
        self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        if self.per_minute != inf:
            self._level = self.level(now) - amount

    def wait_s(self, amount: float, now: float) -> float:
        """Until that much is there, or the bucket is full."""
        missing = min(amount, self.limit) - self.level(now)
        return max(0.0, missing) * MINUTE_S / self.limit if missing > 0 else 0.0

    def fits(self, amount: float, now: float) -> bool:
        """More than a minute's worth fits a full bucket only."""
        return self.level(now) >= min(amount, self.limit)


@dataclass(slots=True)
class RateLimit:
    """Of one API key."""

    requests: Bucket
    tokens: Bucket

    def retry_after_s(self, tokens: int, now: float) -> float | None:
        """How long a request with so many prompt tokens has to wait; None where it need not."""
        if self.requests.fits(1, now) and self.tokens.fits(tokens, now):
            return None
        return max(self.requests.wait_s(1, now), self.tokens.wait_s(tokens, now))

    def take(self, tokens: int, now: float) -> None:
        """A request with so many prompt tokens is served."""
        self.requests.take(1, now)
        self.tokens.take(tokens, now)

    def set_share(self, share: float) -> None:
        self.requests.share = self.tokens.share = share

    def header_lines(self, now: float) -> bytes:
        """As OpenAI names them; none for what has no limit."""
        lines = b""
        for name, bucket in ((b"requests", self.requests), (b"tokens", self.tokens)):
            if bucket.per_minute != inf:
                left = max(0, int(bucket.level(now)))
                full_s = ceil(bucket.wait_s(bucket.limit, now))
                lines += (
                    b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %ds\r\n"
                    % (name, bucket.limit, name, left, name, full_s)
                )
        return lines
