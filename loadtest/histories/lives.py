"""What a journal tells of each request: its attempts, who had it when, and its end; and what is wrong with that.

Written from the contract of events and commands alone, with nothing of the core's code: it can disagree with the core.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from dualmap.loadtest.histories.faults import Fault, Rule
from dualmap.router.journal.format import Record
from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject
from dualmap.scheduler.events import (
    Event,
    FirstToken,
    InstanceDraining,
    InstanceJoined,
    InstanceLost,
    PrefillDone,
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    ServedElsewhere,
    StreamContinued,
)
from dualmap.scheduler.role import Leg, Role


class Ended(StrEnum):
    """How a request ended, as its gateway tells."""

    ANSWERED = "answered"
    REFUSED = "refused"  # with an error, before anything of an answer
    FAILED = "failed"  # part of an answer was sent, then an error
    LEFT = "left by its client"
    OPEN = "open"  # the journal ends before


@dataclass(slots=True)
class Life:
    """One request. instances: of its attempts, in order. running: its attempt that is at an instance, 0: none is.
    bound: it can run only where it asks to, also where that instance takes nothing else any more.
    begun: part of an answer has been sent by its attempts since it was last continued. continued: how often.
    ended_s: on the journal's clock; nan while it is open. revision: of the instance that has computed its prompt for
    another."""

    request_id: str
    arrived_s: float
    bound: bool = False
    instances: list[str] = field(default_factory=list)
    running: int = 0
    attempts: int = 0
    begun: bool = False
    continued: int = 0
    ended: Ended = Ended.OPEN
    ended_s: float = float("nan")
    output_tokens: int = 0
    revision: str = ""


@dataclass(slots=True)
class Lives:
    """by_id: in the order of arrival. last_s: of the last record."""

    by_id: dict[str, Life] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    last_s: float = 0.0


def lives_of(records: Iterable[Record], where: str = "") -> Lives:
    """where: name of the history, for its faults."""
    teller = _Teller(where)
    for record in records:
        teller.tell(record)
    return teller.lives


class _Teller:
    """One journal, record by record."""

    def __init__(self, where: str) -> None:
        self.lives = Lives()
        self._where = where
        self._members: dict[str, int] = {}  # instance -> incarnation
        self._roles: dict[str, Role] = {}
        self._revisions: dict[str, str] = {}
        self._draining: dict[str, float] = {}  # since when

    def tell(self, record: Record) -> None:
        self.lives.last_s = record.t
        if record.error:
            self._fault(Rule.NO_ERROR, "", f"{type(record.event).__name__} gave {record.error}")
        self._event(record.event, record.t)
        for command in record.commands:
            self._command(command, record.t)

    def _fault(self, rule: Rule, about: str, says: str) -> None:
        self.lives.faults.append(Fault(rule, about, says, self._where))

    def _event(self, event: Event, now: float) -> None:
        match event:
            case RequestArrived():
                request = event.request
                if request.id in self.lives.by_id:
                    self._fault(Rule.ENDS_ONCE, request.id, "arrives twice")
                self.lives.by_id[request.id] = Life(request.id, now, bound=bool(request.only))
            case FirstToken():
                if life := self._at(event.request_id, event.attempt):
                    life.begun = True
            case PrefillDone():
                if life := self._at(event.request_id, event.attempt):
                    life.running = 0
                    life.revision = self._revisions[life.instances[-1]]
            case RequestFinished():
                if life := self._at(event.request_id, event.attempt):
                    life.output_tokens = event.output_tokens
                    self._end(life, Ended.ANSWERED, now)
            case RequestFailed():
                if life := self._at(event.request_id, event.attempt):
                    life.begun |= event.tokens_sent > 0
                    life.running = 0
            case ServedElsewhere():
                if life := self._at(event.request_id, event.attempt):
                    life.running = 0
            case StreamContinued():
                self._continue(event)
            case RequestCancelled():
                life = self.lives.by_id.get(event.request_id)
                if life is not None and life.ended is Ended.OPEN:
                    self._end(life, Ended.LEFT, now)
            case InstanceJoined() if event.incarnation >= self._members.get(event.instance_id, event.incarnation):
                self._members[event.instance_id] = event.incarnation
                self._roles[event.instance_id] = event.role
                self._revisions[event.instance_id] = event.revision
                self._draining.pop(event.instance_id, None)
            case InstanceDraining() if self._members.get(event.instance_id) == event.incarnation:
                self._draining.setdefault(event.instance_id, now)
            case InstanceLost() if self._members.get(event.instance_id) == event.incarnation:
                del self._members[event.instance_id]
                self._draining.pop(event.instance_id, None)

    def _at(self, request_id: str, attempt: int) -> Life | None:
        """The request, if this attempt runs; what comes late says nothing."""
        life = self.lives.by_id.get(request_id)
        return life if life is not None and life.running == attempt and attempt else None

    def _continue(self, event: StreamContinued) -> None:
        request = event.request
        life = self.lives.by_id.get(request.id)
        if life is None or life.ended is not Ended.FAILED or not life.begun:
            was = "unknown" if life is None else f"{life.ended}, and {'had' if life.begun else 'had not'} begun"
            self._fault(Rule.ONE_ANSWER, request.id, f"is continued, and was {was}")
            return
        if request.goes_on_after != life.attempts:
            says = f"goes on after attempt {request.goes_on_after}, and had {life.attempts}"
            self._fault(Rule.IN_ORDER, request.id, says)
        life.ended, life.begun, life.ended_s = Ended.OPEN, False, float("nan")
        life.continued += 1

    def _command(self, command: Command, now: float) -> None:
        match command:
            case Dispatch():
                if life := self._open(command.request_id, "is dispatched"):
                    self._dispatch(life, command)
            case Abort():
                life = self._at(command.request_id, command.attempt)
                if life is None or life.instances[-1] != command.instance_id:
                    says = f"attempt {command.attempt} at {command.instance_id} is aborted, and does not run"
                    self._fault(Rule.ONE_AT_A_TIME, command.request_id, says)
                else:
                    life.running = 0
            case Reject():
                if life := self._open(command.request_id, "is refused"):
                    self._end(life, Ended.FAILED if life.begun or life.continued else Ended.REFUSED, now)
            case FailStream():
                if life := self._open(command.request_id, "is failed"):
                    self._end(life, Ended.FAILED, now)

    def _open(self, request_id: str, what: str) -> Life | None:
        life = self.lives.by_id.get(request_id)
        if life is None:
            self._fault(Rule.ENDS_ONCE, request_id, f"{what}, and never arrived")
        elif life.ended is not Ended.OPEN:
            self._fault(Rule.ENDS_ONCE, request_id, f"{what} after it was {life.ended}")
        else:
            return life
        return None

    def _dispatch(self, life: Life, command: Dispatch) -> None:
        about, place = command.request_id, command.instance_id
        if life.running:
            says = f"goes to {place} while attempt {life.running} runs at {life.instances[-1]}"
            self._fault(Rule.ONE_AT_A_TIME, about, says)
        if life.begun:
            says = f"goes to {place} from its beginning, and its client has part of an answer"
            self._fault(Rule.ONE_ANSWER, about, says)
        if command.attempt != life.attempts + 1:
            self._fault(Rule.IN_ORDER, about, f"attempt {command.attempt} follows attempt {life.attempts}")
        if place not in self._members:
            self._fault(Rule.THERE, about, f"goes to {place}, which is not there")
        elif self._draining.get(place, life.arrived_s) < life.arrived_s and not life.bound:
            self._fault(Rule.THERE, about, f"goes to {place}, which drained before the request came")
        elif not (role := self._roles[place]).takes(command.leg):
            self._fault(Rule.THERE, about, f"goes to {place}, whose role is {role}, with its leg {command.leg}")
        elif command.leg is Leg.DECODE and (revision := self._revisions[place]) != life.revision:
            says = f"goes to {place}, of revision {revision!r}, with a prompt of {life.revision!r}"
            self._fault(Rule.THERE, about, says)
        life.attempts = life.running = command.attempt
        life.instances.append(place)

    def _end(self, life: Life, ended: Ended, now: float) -> None:
        if ended is not Ended.ANSWERED and ended is not Ended.LEFT and life.running:
            says = f"is {ended} while attempt {life.running} runs at {life.instances[-1]}"
            self._fault(Rule.ONE_AT_A_TIME, life.request_id, says)
        life.ended, life.ended_s, life.running = ended, now, 0
