"""Fleet: the one writer of membership. Instances report to it; gateways ask it for what changed since the epoch they
know, and for what instances said of themselves."""

import time
from dataclasses import replace

from router.membership import Member, Membership, MemberState
from router.signal_board import SignalBoard
from router.signals import InstanceSignals, SignalNews

SILENCE_S = 5.0  # without a report an instance counts as lost; five heartbeats
SETTLE_S = 5.0  # a restarted Fleet publishes nothing until every instance has reported, or for this long


class Fleet:
    """Keeps no state that the instances' reports do not bring back: after a restart it settles, then publishes an epoch
    higher than any a gateway knows."""

    def __init__(self, expected: tuple[str, ...]) -> None:
        """expected: ids of the instances that will report."""
        self._silent = set(expected)
        self._settled_at = time.monotonic() + SETTLE_S
        self._members: dict[str, Member] = {}
        self._reported_at: dict[str, float] = {}
        self._board = SignalBoard()
        self._epoch = 0
        self._changed = True

    async def report(self, member: Member, signals: InstanceSignals | None = None) -> bool:
        """An instance's state, and what it says of itself; a report of an older incarnation is dropped. False if
        changes of its cache were missed: it has to tell all it holds."""
        known = self._members.get(member.instance_id)
        if known is not None and member.incarnation < known.incarnation:
            return True
        self._silent.discard(member.instance_id)
        self._reported_at[member.instance_id] = time.monotonic()
        if known != member:
            self._members[member.instance_id] = member
            self._changed = True
            if member.state is MemberState.LOST or (known is not None and member.incarnation > known.incarnation):
                self._board.forget(member.instance_id)
        return signals is None or self._board.put(signals)

    async def sync(self, known_epoch: int, known_signals: int = 0) -> tuple[Membership | None, SignalNews | None]:
        """The membership and the signals, each only if newer than what is known. Gateways call this each 100 ms."""
        now = time.monotonic()
        if self._silent and now < self._settled_at:
            return None, None
        self._lose_silent(now)
        if self._changed or known_epoch > self._epoch:
            self._epoch = max(self._epoch, known_epoch) + 1
            self._changed = False
        news = self._board.news(known_signals)
        if known_epoch == self._epoch:
            return None, news
        return Membership(self._epoch, tuple(self._members[i] for i in sorted(self._members))), news

    def _lose_silent(self, now: float) -> None:
        for instance_id, member in self._members.items():
            if member.state is not MemberState.LOST and now - self._reported_at[instance_id] > SILENCE_S:
                self._members[instance_id] = replace(member, state=MemberState.LOST)
                self._changed = True
