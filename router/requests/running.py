"""One attempt of an exchange at an instance: takes the answer, judges it, and passes it on to the client."""

from dualmap.router.apis.state_ids import StateSeeker
from dualmap.router.apis.stream_event import StreamError, is_comment, read_error
from dualmap.router.apis.stream_rules import StreamRules
from dualmap.router.apis.token_ids import ASK_FOR_IDS, TokenIds
from dualmap.router.apis.token_shape import TokenShape
from dualmap.router.apis.usage import NO_USAGE, Usage, peek_usage
from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.answer_sink import AnswerSink, Upstream
from dualmap.router.http.instance_head import InstanceHead
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.openai_errors import HttpError, instance_key_refused
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.legs.handoff import Handoff
from dualmap.router.requests.answer_events import FAILED, Answer, AnswerEvents
from dualmap.router.requests.answer_plain import ENCODED, NO_STREAM, AnswerAsEvents, HeldAnswer, plain_answer
from dualmap.router.requests.answer_replay import AnswerReplay, Record, RecordedEvents
from dualmap.router.requests.answer_rest import AnswerRest
from dualmap.router.requests.answer_spool import Spool, SpoolRoom
from dualmap.router.requests.answer_verdict import (
    ANSWER,
    ENGINE_FAILED_STATUS,
    FAILURE,
    REPLACED,
    UNAUTHORIZED_STATUS,
    answer_verdict,
    error_cause,
    failure_cause,
    has_end,
    names_ids,
    says_no_model,
    says_too_long,
)
from dualmap.router.requests.answer_writer import AnswerWriter
from dualmap.router.requests.asked import Asked
from dualmap.router.requests.attempt_head import attempt_head
from dualmap.router.requests.driven import Driven
from dualmap.router.requests.instance_work import InstanceWork
from dualmap.router.requests.phase import ANSWERING
from dualmap.router.requests.quiet import Quiet
from dualmap.router.requests.replay import DIFFERS
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause

OK_STATUS = 200
FIRST_REDIRECT_STATUS = 300
FIRST_ERROR_STATUS = 400
MOST_READ_BYTES = 64 * 1024  # of what an error says


class Carrier(Driven):
    """Whose attempt it is, and who is told what becomes of it: its exchange."""

    __slots__ = ()

    @property
    def rules(self) -> StreamRules:
        raise NotImplementedError

    @property
    def spool_room(self) -> SpoolRoom:
        raise NotImplementedError

    def answer_begun(self, run: "Running", has_body: bool) -> None:
        raise NotImplementedError

    def state_made(self, run: "Running", state_id: str) -> None:
        raise NotImplementedError

    def prefilled(self, run: "Running", handoff: Handoff) -> None:
        raise NotImplementedError

    def finished(self, run: "Running", status: int) -> None:
        raise NotImplementedError

    def attempt_failed(self, run: "Running", cause: FailureCause) -> None:
        raise NotImplementedError


class Running(AnswerSink):
    """See Run and AnswerSink. ids: of its answer; None where they are not known."""

    __slots__ = (
        "_answer",
        "_began_at",
        "_carrier",
        "_ids_refused",
        "_pool",
        "_quiet",
        "_refusal",
        "_rest",
        "_seeker",
        "_tokens",
        "_writer",
        "dispatch",
        "event_stream",
        "first_byte_at",
        "ids",
        "pieces",
    )

    def __init__(
        self, carrier: Carrier, writer: AnswerWriter, dispatch: Dispatch, pool: UpstreamPool, now: float
    ) -> None:
        """pool: of connections to the instance."""
        self.dispatch = dispatch
        prompt, rest = carrier.asked.prompt, carrier.rest
        self.body = prompt.body if rest is None else rest.body
        if prompt.hides_ids and rest is None and not pool.tells_ids:
            self.body = self.body.replace(ASK_FOR_IDS, b"", 1)
        self.upstream: Upstream | None = None
        self.pieces = 0
        self.event_stream = False
        self.first_byte_at = 0.0
        self._carrier = carrier
        self._writer = writer
        self._pool = pool
        self._rest = rest
        self.ids: TokenIds | None = None
        self._ids_refused = False  # so it seems
        self._answer: Answer | None = None
        self._refusal = b""  # so much of an error's body has come
        self._seeker: StateSeeker | None = None  # while it is to be found what the instance keeps of its answer
        self._tokens: TokenShape | None = None  # takes most of what comes
        self._began_at = now
        self._quiet: Quiet | None = None  # before it is first looked at: most are over by then

    @property
    def sent_pieces(self) -> int:
        """0 while all of the answer is held back, but where it is known that no other one can be given."""
        return self.pieces if self._carrier.phase is ANSWERING or self._carrier.why_cut else 0

    @property
    def error(self) -> StreamError | None:
        """What the instance said in its stream when it failed."""
        return None if self._answer is None else self._answer.error

    def usage(self) -> Usage:
        """What the answer's last bytes say of `usage`."""
        return peek_usage((b"" if self._answer is None else self._answer.usage_event) or self._writer.tail)

    def own_usage(self) -> Usage:
        """What the instance says of its own part of the answer."""
        answer = self._answer
        return answer.own_usage or NO_USAGE if isinstance(answer, AnswerRest) else self.usage()

    @property
    def record(self) -> Record | None:
        """What the client has of a stream, where that is kept."""
        answer = self._answer
        return answer.record if isinstance(answer, RecordedEvents | AnswerReplay) else None

    @property
    def spool(self) -> Spool | None:
        """What the client has still to be sent of a plain answer that is complete."""
        answer = self._answer
        return answer.spool if isinstance(answer, HeldAnswer) else None

    def drop(self) -> None:
        """Close the connection to the instance at once."""
        if isinstance(self._answer, HeldAnswer):
            self._answer.let_go()
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = None

    def is_stalled(self, blocked: bool, now: float, limits: HttpLimits, work: InstanceWork) -> bool:
        """Whether the instance has sent nothing for too long; called periodically. blocked: nothing is read of it."""
        quiet = self._quiet = self._quiet or Quiet(self._began_at)
        if self.upstream is None or blocked:
            quiet.reset(now)
            return False
        may_rest = not self.event_stream or self._carrier.rules.pauses
        instance_id = self.dispatch.instance_id
        return quiet.is_stalled(self.pieces, instance_id, may_rest=may_rest, now=now, limits=limits, work=work)

    # What the connection to the instance calls (AnswerSink).

    def head_for(self, to: InstanceHead) -> bytes:
        arrived = self._carrier.arrived
        target = arrived.http.target if self._rest is None else self._rest.target
        return attempt_head(arrived, to, target, len(self.body))

    def relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        tokens = self._tokens
        if tokens is not None and not complete and (shown := tokens.take(body)) is not None:
            self.pieces += pieces
            self._writer.go_on(shown, False)
            return
        self._relay(body, pieces, head, complete)
        answer, passes_on = self._answer, self._seeker is None and self._carrier.phase is ANSWERING
        self._tokens = answer.tokens if isinstance(answer, AnswerEvents) and passes_on else None

    def _relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        answer = self._answer
        if answer is None:
            if head.status >= FIRST_ERROR_STATUS:  # what it says is read whole
                body = self._refusal = self._refusal + body
                if not complete and len(body) <= MOST_READ_BYTES:
                    return
            no_rest = self._rest is not None and (head.encoded or not head.event_stream)
            if (head.status != OK_STATUS or head.html or no_rest) and not self._accepts(head, body, complete):
                return
            answer = self._answer = self._read_as(head, body if complete else None)
            carrier = self._carrier
            if head.status < FIRST_REDIRECT_STATUS and (
                carrier.arrived.api.makes_state or carrier.asked.request.stateful
            ):
                self._note_state(carrier.asked, head.event_stream)
        self.pieces += pieces
        if complete and self.ids is not None and self.ids.tells and not has_end(self._writer.tail + body):
            if body := answer.feed(body, False):
                self._pass_on(head, body, False)
            self._give_up(FailureCause.BROKEN)
            return
        body = answer.feed(body, complete)
        if answer.notice is not None:
            if answer.notice is FAILED:
                self._failed(answer.error, head, body)
                return
            answer.notice = None
            self.pieces -= pieces
            if self._quiet is not None:
                self._quiet.signs = True
            if not complete and self._carrier.phase is ANSWERING and is_comment(body):
                self._writer.comment(body)
                return
        if body or complete:
            if self._seeker is not None:
                self._seek_state(body, complete)
            over = not complete and isinstance(answer, AnswerRest) and answer.is_over
            self._pass_on(head, body, (complete or over) and self.spool is None)
            if over:  # whatever its instance may still say
                self.drop()
                self._carrier.finished(self, head.status)
        elif self.event_stream and not isinstance(answer, AnswerReplay):  # it is counted when it is relayed
            self.pieces -= pieces

    def _pass_on(self, head: AnswerHead, body: bytes, complete: bool) -> None:
        if self._carrier.phase is ANSWERING:
            self._writer.go_on(body, complete)
        else:
            self._begin(head, body, complete)

    def _accepts(self, head: AnswerHead, body: bytes, complete: bool) -> bool:
        """Whether this is an answer; if not, the attempt is over. body: the first of it."""
        if head.status == UNAUTHORIZED_STATUS and (self._pool.head.brings_key or self._carrier.arrived.grant):
            self._pool.warn("it does not take the gateway's key (HTTP 401): see instance_key_file and key_file")
            self._carrier.said = instance_key_refused()
            self._give_up(FailureCause.UNAUTHORIZED)
            return False
        if self._rest is not None:
            self._give_up(failure_cause(head.status, aborted=False))
            return False
        asked = self._carrier.asked
        asks_ids = asked.prompt.hides_ids and self._pool.tells_ids and not self._ids_refused
        if asks_ids and complete and names_ids(head.status, body):
            self._ask_without_ids()
            return False
        last = self.dispatch.last and not asked.other_cores
        searches = asked.request.stateful and asked.request.searches
        if complete and not head.encoded and (cause := self._not_offered(head.status, body, last)) is not None:
            self._carrier.said = read_error(head.status, body)
            self._give_up(cause)
            return False
        verdict = answer_verdict(head.status, aborted=False, begun=False, last=last, html=head.html, searches=searches)
        if verdict is ANSWER:
            return True
        if verdict is REPLACED:
            self._tell_instead(read_error(head.status, b""))
        else:
            if complete and head.status == ENGINE_FAILED_STATUS and not (head.html or head.encoded):
                self._carrier.said = read_error(head.status, body)
            self._give_up(failure_cause(head.status, aborted=False, searches=searches))
        return False

    def _ask_without_ids(self) -> None:
        """Once more, as if it had not been asked for what the client did not ask for: it may have refused something
        else, in words that a client has chosen."""
        self.drop()
        self._ids_refused = True
        self._refusal = b""
        self.body = self.body.replace(ASK_FOR_IDS, b"", 1)
        self._pool.run(self)

    def _not_offered(self, status: int, body: bytes, last: bool) -> FailureCause | None:
        """Why another instance may answer what this one refuses, since it offers something else; None where not."""
        if self.dispatch.longer and says_too_long(status, body):
            return FailureCause.TOO_LONG
        return FailureCause.NOT_HERE if not last and says_no_model(status, body) else None

    def answer_complete(self, head: AnswerHead) -> None:
        self.upstream = None
        self._carrier.finished(self, head.status)

    def attempt_failed(self, cause: FailureCause) -> None:
        self.upstream = None
        self.drop()
        self._carrier.attempt_failed(self, cause)

    def _read_as(self, head: AnswerHead, whole: bytes | None) -> Answer:
        """whole: the body, where it has come at once."""
        rules = self._carrier.rules
        if self._rest is not None:
            self.event_stream = True
            return self._rest.answer()
        if self._writer.is_open and (head.encoded or not (head.event_stream and head.status == OK_STATUS)):
            error = NO_STREAM if head.status < FIRST_ERROR_STATUS else None
            if error is not None:
                head.status = error.status
            return AnswerAsEvents(rules, head.status, error)
        self.event_stream = head.event_stream
        if self._ids_refused and head.status == OK_STATUS:
            self._pool.tells_ids = False
        if head.encoded:
            return ENCODED
        if head.event_stream:
            prompt, api_rest = self._carrier.asked.prompt, self._carrier.arrived.api.rest
            if prompt.records_ids and api_rest is not None and self._pool.tells_ids:
                self.ids = api_rest.new_ids(prompt.hides_ids)
            return (RecordedEvents if prompt.may_replay or prompt.by_text else AnswerEvents)(
                rules, prompt.hides_usage, self.ids
            )
        return plain_answer(head, rules, self._carrier.spool_room, whole)

    def _note_state(self, asked: Asked, event_stream: bool) -> None:
        """What the instance keeps: what it was asked to go on from, and what it makes."""
        if asked.request.stateful and asked.request.searches:
            self._carrier.state_made(self, asked.prompt.read.state)
        if asked.prompt.read.stored and self._carrier.arrived.api.makes_state:
            self._seeker = StateSeeker(event_stream)

    def _seek_state(self, body: bytes, complete: bool) -> None:
        """Before the client can go on from it."""
        if self._seeker is not None and self._seeker.seeks:
            if state_id := self._seeker.feed(body, complete):
                self._carrier.state_made(self, state_id)
        else:
            self._seeker = None

    def _failed(self, error: StreamError | None, head: AnswerHead, body: bytes) -> None:
        """The instance ended its answer by itself. error: what it said. body: what can still be relayed."""
        begun, last = self._carrier.phase is ANSWERING, self.dispatch.last
        if self._rest is not None:
            if body:
                self._pass_on(head, body, False)
            if isinstance(self._answer, AnswerReplay) and self._answer.differs:
                self._carrier.why_cut = DIFFERS
                self._give_up(FailureCause.BROKEN)
                return
            self._give_up(FailureCause.ABORTED if error is None else error_cause(error.status))
            return
        if error is not None and not begun:
            if last:
                self._tell(error.status, error.body, self._carrier.rules.last_events(error))
            else:
                self._carrier.said = read_error(error.status, error.body)
                self._give_up(error_cause(error.status))
            return
        if body and answer_verdict(head.status, aborted=True, begun=begun, last=last) is FAILURE:
            self._writer.go_on(body, False)
        self._give_up(failure_cause(head.status, aborted=True))

    def _tell_instead(self, error: HttpError) -> None:
        """The client gets the error in place of what the instance sent."""
        http = self._carrier.arrived.http
        self._tell(error.status, http.error_shape(error), self._carrier.rules.error_events(error, b""))

    def _tell(self, status: int, body: bytes, events: bytes) -> None:
        """The client gets an error as if it had been the instance's plain answer. events: the same in a stream."""
        self.drop()
        self.event_stream = False
        head = AnswerHead()
        head.note(b"content-type", b"application/json")
        head.content_length = len(body)
        head.complete(status, True)
        if self._carrier.arrived.http.method == "HEAD":
            body = b""
        self._begin(head, events if self._writer.is_open else body, True)
        self._carrier.finished(self, status)

    def _give_up(self, cause: FailureCause) -> None:
        self.drop()
        self._carrier.attempt_failed(self, cause)

    def _begin(self, head: AnswerHead, body: bytes, complete: bool) -> None:
        """Not before there is some of the body, so that until then another instance can try."""
        carrier, queue_ms = self._carrier, int(self.dispatch.queued_s * 1000.0)
        if self._rest is not None:
            self._writer.go_on(body, complete)
            carrier.answer_begun(self, bool(body))
            return
        if self.ids is not None and self.ids.tells is False:
            self.ids = None
            self._pool.tells_ids = False
        lines = b"%b%d\r\n%b" % (self._pool.answer_lines, queue_ms, carrier.asked.answer_lines)
        self._writer.begin(head, lines, body, complete)
        carrier.answer_begun(self, bool(body))
