"""What became of the requests that ran on an instance when it was lost: its connections break before Fleet says so."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dualmap.router.requests.driven import Driven
from dualmap.router.requests.phase import ANSWERING
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import FailureCause, InstanceDraining, InstanceJoined
from dualmap.scheduler.fleet.membership_events import MembershipEvent
from dualmap.scheduler.fleet.messages import CarriedRequests

TOGETHER_S = 60.0  # what failed longer before the loss than this does not belong to it
NOT_ITS_END = (
    FailureCause.NOT_HERE,
    FailureCause.TOO_LONG,
    FailureCause.LEG_REFUSED,
    FailureCause.UNAUTHORIZED,
    FailureCause.REFUSED,
)


@dataclass(slots=True)
class _Counts:
    at: float  # of the last one
    continued: int = 0
    run_elsewhere: int = 0
    failed: int = 0


class Carried:
    def __init__(self, exchanges: Mapping[str, Driven], clock: Callable[[], float]) -> None:
        """exchanges: see RequestDriver."""
        self._exchanges = exchanges
        self._clock = clock
        self._counts: dict[str, _Counts] = {}  # by instance
        self._lost: list[CarriedRequests] = []
        self._whole: set[str] = set()

    def ended_whole(self, request_id: str) -> None:
        """The attempt that is about to be noted failed when its client had the answer."""
        self._whole.add(request_id)

    def note(self, instance_id: str, request_id: str, begun: bool) -> None:
        """An attempt there has failed, and what comes of it is decided. begun: it gave the client some of the
        answer."""
        if request_id in self._whole:
            self._whole.discard(request_id)
            return
        now = self._clock()
        counts = self._counts.get(instance_id)
        if counts is None or now - counts.at > TOGETHER_S:
            self._counts = {i: known for i, known in self._counts.items() if now - known.at <= TOGETHER_S}
            counts = self._counts[instance_id] = _Counts(now)
        counts.at = now
        if request_id not in self._exchanges:
            counts.failed += 1
        elif begun:
            counts.continued += 1
        else:
            counts.run_elsewhere += 1

    def before(self, event: MembershipEvent, scheduler: Scheduler) -> dict[str, bool] | None:
        """Requests that the event takes off an instance, and whether that gave the client of each some of the answer;
        None where the event takes no instance away."""
        view = scheduler.instances.get(event.instance_id)
        if (
            view is None
            or isinstance(event, InstanceDraining)
            or (isinstance(event, InstanceJoined) and event.incarnation <= view.incarnation)
        ):
            return None
        ids = (attempt.request.id for attempt in view.running.values())
        return {i: self._exchanges[i].phase is ANSWERING for i in ids if i in self._exchanges}

    def after(self, instance_id: str, running: Mapping[str, bool]) -> None:
        """It is lost. running: see `before`; what comes of these is decided."""
        for request_id, begun in running.items():
            self.note(instance_id, request_id, begun)
        counts = self._counts.pop(instance_id, None)
        if counts is not None and self._clock() - counts.at <= TOGETHER_S:
            told = CarriedRequests(instance_id, counts.continued, counts.run_elsewhere, counts.failed)
            self._lost.append(told)

    def take_lost(self) -> tuple[CarriedRequests, ...]:
        """Of instances that were lost since the last call."""
        lost = tuple(self._lost)
        self._lost.clear()
        return lost
