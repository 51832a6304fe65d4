"""Placements that the other gateways have not heard of. Several gateways that get requests in the same moment find the
same instance idle, and the engine would compute their prompts side by side: so nobody starts before the others have
been told, and what they told before is known."""

from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.commands import Command, TellOthers

# Of the objective for a first token: nobody waits longer for news. An answer takes milliseconds, else gateways go on by
# what they know.
UNTOLD_SHARE = 0.1
SHORT_S = 0.05  # a prompt with less work than this is in nobody's way
TELL_OTHERS = TellOthers()


class Untold:
    """most_s: that anybody waits. asks: whether there are others whose answers come soon enough to wait for them."""

    def __init__(self, ttft_slo_s: float) -> None:
        self.most_s = UNTOLD_SHARE * ttft_slo_s
        self.asks = False
        self._attempts: dict[str, tuple[Attempt, float]] = {}  # by request id, and since when

    def tell(self, commands: list[Command]) -> None:
        """What is booked here has changed in a way that matters to the others, if there are any."""
        if self.asks and TELL_OTHERS not in commands:
            commands.append(TELL_OTHERS)

    def tell_of(self, attempt: Attempt, now: float, commands: list[Command]) -> None:
        """It waits where the other gateways do not know of it."""
        if self.asks:
            self._attempts[attempt.request.id] = (attempt, now)
            self.tell(commands)

    def keeps(self, attempt: Attempt, now: float) -> bool:
        """Whether it must not start yet."""
        known, since = self._attempts.get(attempt.request.id, (None, 0.0))
        return known is attempt and now - since < self.most_s

    def heard(self, told_s: float | None, now: float) -> list[Attempt]:
        """The others have answered what was said `told_s` ago; None: there are none, or it is not known when they hear
        it. Those that nobody has to wait for any more, in the order in which they were placed."""
        self.asks = told_s is not None and 2 * told_s <= self.most_s  # one may just miss a call and wait for two
        if told_s is None or not self.asks:
            return self._all()
        told = [attempt for attempt, since in self._attempts.values() if since <= now - told_s]
        for attempt in told:
            del self._attempts[attempt.request.id]
        return told

    def is_unanswered(self, now: float) -> bool:
        """Whether an answer is overdue. Nobody waits for another until there is one."""
        if not any(now - since >= self.most_s for _, since in self._attempts.values()):
            return False
        self.asks = False
        self._attempts.clear()
        return True

    def _all(self) -> list[Attempt]:
        attempts = [attempt for attempt, _ in self._attempts.values()]
        self._attempts.clear()
        return attempts
