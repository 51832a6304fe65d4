"""For how long nothing has come of an answer, and whether that is too long."""

from dualmap.router.http.limits import HttpLimits
from dualmap.router.requests.instance_work import InstanceWork

IDLE_S = 20.0  # an instance that says for so long that it runs nothing has forgotten the stream it does not end


class Quiet:
    """One attempt's. signs: it has sent something, if nothing of the answer, since it was last looked at."""

    __slots__ = ("_pieces", "_sign_at", "_since", "signs")

    def __init__(self, now: float) -> None:
        self.signs = False
        self._since = self._sign_at = now
        self._pieces = 0

    def reset(self, now: float) -> None:
        """Nothing is waited for."""
        self._since = now

    def is_stalled(
        self, pieces: int, instance_id: str, *, may_rest: bool, now: float, limits: HttpLimits, work: InstanceWork
    ) -> bool:
        """Whether the instance has sent nothing for too long; called periodically. pieces: of the answer that have
        come. may_rest: its engine may run nothing while the answer goes on."""
        if pieces != self._pieces:
            self._pieces = pieces
            self._since = now
            work.note_answer(instance_id, now)
            return False
        quiet_s = now - self._since
        if not pieces:
            return quiet_s > limits.first_byte_timeout_s
        if self.signs:
            self.signs = False
            self._sign_at = now
        if quiet_s > IDLE_S and not may_rest and work.idle_s(instance_id, now) > IDLE_S:
            return True
        if quiet_s <= limits.stall_timeout_s:
            return False
        working_s = now - max(self._sign_at, work.worked_at(instance_id))
        return working_s > limits.stall_timeout_s or quiet_s > limits.first_byte_timeout_s
