"""Requests and the core: what clients and instances do becomes events, commands become requests and answers.

Everything between an event and its commands is synchronous; nothing on a request's path is awaited.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from dualmap.router.apis.usage import Usage
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.openai_errors import HttpError, failed, rejected, stopping
from dualmap.router.legs.handoff import Handoff
from dualmap.router.observe.latencies import Latencies
from dualmap.router.observe.metrics import REJECTIONS, Continuation, GatewayMetrics, Outcome, Told
from dualmap.router.requests.admission import Admission, NotAdmittedError
from dualmap.router.requests.answer_spool import SpoolRoom
from dualmap.router.requests.carried import NOT_ITS_END, Carried
from dualmap.router.requests.core import Core
from dualmap.router.requests.driven import Driven, DrivenOwner, Run
from dualmap.router.requests.instance_connections import InstanceConnections
from dualmap.router.requests.phase import ANSWERING, HALTED, OVER, RUNNING, WAITING
from dualmap.router.requests.request_watcher import RequestWatcher
from dualmap.router.requests.stateful import Stateful
from dualmap.router.requests.token_arrival import TokenArrival
from dualmap.scheduler.attempt import AttemptState
from dualmap.scheduler.commands import Abort, Command, Dispatch, FailStream, Reject, RejectReason, TellOthers
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import (
    Event,
    FailureCause,
    FirstToken,
    PrefillDone,
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
)
from dualmap.scheduler.fleet.membership_events import MembershipEvent
from dualmap.scheduler.role import DECODE, PREFILL

OK_STATUS = 200
FIRST_ERROR_STATUS = 400
FIRST_SERVER_ERROR_STATUS = 500
OK = Outcome.OK  # a name is found five times as fast as the attribute of an enum


class RequestDriver(DrivenOwner):
    """exchanges: requests that the core knows, or soon will, by id. dispatched: is told of each request that goes out.
    watchers: of each that comes and ends. first_token_came: of each stream that begins, and how many seconds after its
    request. spool_room: for plain answers that are long. tell_others: a core wants the other gateways to know of its
    books at once. by_tokens: names the prompts of a core by their tokens; None: all are known by their texts.
    max_continuations: how many times a stream may go on elsewhere. stateful: finds who keeps what a request goes on
    from. carried: what became of requests of instances that failed."""

    def __init__(
        self,
        admission: Admission,
        connections: InstanceConnections,
        metrics: GatewayMetrics,
        clock: Callable[[], float],
        gateway_id: str,
    ) -> None:
        self.stateful = Stateful(admission.cores, self.arrive, self.refuse)
        self.exchanges: dict[str, Driven] = {}
        self.spool_room = SpoolRoom(lambda: connections.limits.max_spooled_bytes)
        self.carried = Carried(self.exchanges, clock)
        self.dispatched: Callable[[Dispatch, Driven], None] = lambda dispatch, driven: None
        self.first_token_came: Callable[[Dispatch, float], None] = lambda dispatch, ttft_s: None
        self.tell_others: Callable[[], None] = lambda: None
        self.watchers: tuple[RequestWatcher, ...] = ()
        self.by_tokens: TokenArrival | None = None
        self.max_continuations = 0
        self._admission = admission
        self._connections = connections
        self._metrics = metrics
        self._clock = clock
        self._id_prefix = f"{gateway_id}-{time.time_ns():x}-"
        self._id_count = 0
        self._apply: dict[type[Command], Callable[[Any], None]] = {
            Reject: self._reject,
            Abort: self._abort,
            FailStream: self._fail_stream,
            TellOthers: lambda command: self.tell_others(),
        }

    def handle(self, event: Event, core: Core) -> None:
        """Give the core of a pool an event, and carry out what it orders."""
        now = self._clock()
        if isinstance(core, Scheduler):  # machine code calls a method of a class that it knows without looking for it
            commands = core.handle(event, now)
        else:
            commands = core.handle(event, now)
        for command in commands:
            if isinstance(command, Dispatch):
                self._dispatch(command)
            else:
                self._apply[type(command)](command)

    def change_members(self, event: MembershipEvent, core: Core, scheduler: Scheduler) -> None:
        """The same with instances that come and go; what becomes of requests of one that is lost is noted."""
        running = self.carried.before(event, scheduler)
        self.handle(event, core)
        if running is not None:
            self.carried.after(event.instance_id, running)
            self._begin_reads_anew(event.instance_id, scheduler)

    def _begin_reads_anew(self, instance_id: str, scheduler: Scheduler) -> None:
        """It is lost: who reads what it has computed would wait for it for minutes, with some connectors. Of an answer
        that is not streamed no first token is seen: what runs for longer than a prompt is kept has read it."""
        read_before = self._clock() - scheduler.config.kv_lease_s
        for driven in list(self.exchanges.values()):
            handoff, run, connector = driven.handoff, driven.running, driven.asked.connector
            if handoff is None or run is None or connector is None or driven.phase is not RUNNING:
                continue
            if handoff.params and handoff.dispatch.instance_id == instance_id and connector.waits_for_the_lost:
                attempt = scheduler.attempts.get(driven.arrived.id)
                if attempt and attempt.state is AttemptState.UNSEEN and attempt.dispatched_at <= read_before:
                    continue
                driven.drop_attempt()
                self.attempt_failed(driven, run, FailureCause.INSTANCE_LOST)

    # Requests, as the service or the picker brings them.

    def next_id(self) -> str:
        """Return an id for a request."""
        self._id_count += 1
        return self._id_prefix + str(self._id_count)

    def take(self, driven: Driven) -> None:
        """Take a request to the core, or answer it with an error."""
        arrived = driven.arrived
        for watcher in self.watchers:
            watcher.begun(arrived)
        try:
            asked = self._admission.admit(arrived)
        except NotAdmittedError as refusal:
            self.note_refused()
            driven.answer_error(refusal.error)
            for watcher in self.watchers:
                watcher.refused(arrived, refusal.prompt, refusal.error)
            return
        driven.admitted(asked)
        self.exchanges[arrived.id] = driven
        by_tokens = self.by_tokens
        if asked.prompt.read.state:
            self.stateful.begin(driven)
        elif by_tokens is None or asked.core is not by_tokens.core or not by_tokens.reads(asked.prompt, arrived.api):
            self.handle(RequestArrived(asked.request), asked.core)
        else:
            by_tokens.begin(driven)

    def arrive(self, driven: Driven) -> None:
        """Take a request to the core whose tokens were looked for, unless its client has left."""
        if driven.phase is not OVER:
            self.handle(RequestArrived(driven.asked.request), driven.asked.core)

    def refuse(self, driven: Driven, error: HttpError) -> None:
        """Answer a request that was admitted and has not reached the core, unless its client has left."""
        if driven.phase is not OVER:
            del self.exchanges[driven.arrived.id]
            self._answer_error(driven, Outcome.CLIENT_ERROR, error)

    def note_refused(self) -> None:
        """Count a request that was answered with an error of the client's."""
        self._metrics.outcomes[Outcome.CLIENT_ERROR] += 1

    # What becomes of them (DrivenOwner).

    def first_byte(self, driven: Driven, run: Run) -> None:
        now = run.first_byte_at = self._clock()
        if not run.event_stream:  # a plain answer comes whole: this is not its first token
            return
        dispatch, arrived, rest = run.dispatch, driven.arrived, driven.rest
        if rest is not None:
            self._metrics.continuations[rest.cause, Continuation.WENT_ON] += 1
            self.handle(FirstToken(arrived.id, dispatch.attempt), driven.asked.core)
            return
        ttft_s = now - arrived.at
        latencies = self._latencies(driven)
        latencies.time_to_first_token_s.observe(ttft_s)
        estimated_s = (dispatch if driven.handoff is None else driven.handoff.dispatch).estimated_ttft_s
        latencies.estimated_ttft_s.observe(estimated_s)
        latencies.estimate_error_s.observe(abs(estimated_s - ttft_s))
        self.first_token_came(dispatch, ttft_s)
        self.handle(FirstToken(arrived.id, dispatch.attempt), driven.asked.core)

    def state_made(self, driven: Driven, run: Run, state_id: str) -> None:
        self.stateful.made(driven, state_id, run.dispatch.instance_id)

    def prefilled(self, driven: Driven, run: Run, handoff: Handoff) -> None:
        self._metrics.handoffs[Told.WHERE if handoff.params else Told.NOTHING] += 1
        usage = handoff.usage
        done = PrefillDone(
            driven.arrived.id,
            run.dispatch.attempt,
            cached_tokens=usage.cached_tokens,
            prompt_tokens=usage.prompt_tokens,
        )
        self.handle(done, driven.asked.core)

    def finished(self, driven: Driven, run: Run, status: int) -> None:
        request_id, rest = driven.arrived.id, driven.rest
        del self.exchanges[request_id]
        metrics = self._metrics
        metrics.relayed_pieces += run.pieces
        outcome = OK
        output_tokens = 0
        prompt_tokens = cached_tokens = None
        if status < FIRST_ERROR_STATUS:
            output_tokens, usage = self._note_answer(driven, run)
            prompt_tokens, cached_tokens = usage.prompt_tokens, usage.cached_tokens
        else:
            outcome = Outcome.CLIENT_ERROR if status < FIRST_SERVER_ERROR_STATUS else Outcome.INSTANCE_ERROR
        metrics.outcomes[outcome] += 1
        self._ended(driven, outcome, status)
        if rest is not None:
            own = run.own_usage()
            prompt_tokens, cached_tokens = own.prompt_tokens, own.cached_tokens
        if run.dispatch.leg is DECODE:  # the prefill leg's count is known, and was of another instance
            cached_tokens = None
        done = RequestFinished(
            request_id, run.dispatch.attempt, output_tokens, cached_tokens=cached_tokens, prompt_tokens=prompt_tokens
        )
        self.handle(done, driven.asked.core)

    def _note_answer(self, driven: Driven, run: Run) -> tuple[int, Usage]:
        """Count an answer that its client has whole, and its tokens to its API key; returns how many it has, and what
        it says of its usage."""
        metrics, prompt, now = self._metrics, driven.asked.prompt, self._clock()
        latencies = self._latencies(driven)
        latencies.end_to_end_s.observe(now - driven.arrived.at)
        usage = run.usage()
        output_tokens = run.pieces if usage.completion_tokens is None else usage.completion_tokens
        metrics.output_tokens += output_tokens
        if run.event_stream and output_tokens > 1 and driven.rest is None:
            latencies.time_per_output_token_s.observe((now - run.first_byte_at) / (output_tokens - 1))
        if usage.prompt_tokens is not None:
            metrics.prompt_tokens += usage.prompt_tokens
            metrics.cached_prompt_tokens += usage.cached_tokens or 0
            read = prompt.read
            if read.text_bytes and not read.prompt_tokens and not read.state:  # which has texts of its own
                self._admission.ratio.observe(prompt.model, read.text_bytes, usage.prompt_tokens, read.media)
        if (grant := driven.arrived.grant) is not None:
            grant.limit.tokens.take(output_tokens, now)
        return output_tokens, usage

    def attempt_failed(self, driven: Driven, run: Run, cause: FailureCause) -> None:
        self._metrics.failures[cause] += 1
        begun, instance_id = driven.phase is ANSWERING, run.dispatch.instance_id
        event = RequestFailed(driven.arrived.id, run.dispatch.attempt, run.sent_pieces, cause=cause)
        self.handle(event, driven.asked.core)
        if cause not in NOT_ITS_END:
            self.carried.note(instance_id, driven.arrived.id, begun)

    def cancelled(self, driven: Driven) -> None:
        del self.exchanges[driven.arrived.id]
        self._metrics.outcomes[Outcome.CANCELLED] += 1
        self._ended(driven, Outcome.CANCELLED, 0)
        self.handle(RequestCancelled(driven.arrived.id), driven.asked.core)

    # What the core orders.

    def _dispatch(self, command: Dispatch) -> None:
        driven = self.exchanges[command.request_id]
        if driven.phase is ANSWERING:
            self._fail_begun(command.request_id)
            self.handle(RequestCancelled(command.request_id), driven.asked.core)
            return
        metrics = self._metrics
        metrics.choices[command.reason] += 1
        if command.leg is not PREFILL:
            self._latencies(driven).queue_s.observe(command.queued_s)
        if command.leg is not DECODE:
            metrics.believed_prompt_tokens += driven.asked.request.prompt_tokens
            metrics.believed_cached_tokens += command.cached_tokens
            if command.loads is not None:
                for tier, tokens in command.loads.tokens:
                    metrics.believed_loaded_tokens[tier] += tokens
        self.dispatched(command, driven)
        driven.start_attempt(command, self._connections.to(command.instance_id), self._clock())

    def _reject(self, command: Reject) -> None:
        driven = self.exchanges[command.request_id]
        if driven.phase is ANSWERING:
            self._fail_begun(command.request_id)
            return
        if driven.rest is not None:
            failed_all = command.reason is RejectReason.ATTEMPTS_EXHAUSTED
            became = Continuation.FAILED if failed_all else Continuation.NO_ROOM
            self._metrics.continuations[driven.rest.cause, became] += 1
            self._end_stream(driven, driven.rest.cause)
            return
        if driven.asked.request.stateful and self.stateful.search_on(driven, command.reason):
            return
        del self.exchanges[command.request_id]
        told = self.stateful.gone(driven, command.reason)
        outcome = REJECTIONS[command.reason]
        if told is None and command.reason is RejectReason.ATTEMPTS_EXHAUSTED:
            told = driven.said
        elif told is None and command.reason is RejectReason.NO_INSTANCE:
            told = self._admission.why_nobody(driven.asked)
        if told is not None and told.status < FIRST_SERVER_ERROR_STATUS:
            outcome = Outcome.CLIENT_ERROR
        self._answer_error(driven, outcome, told or rejected(command))

    def _abort(self, command: Abort) -> None:
        self.exchanges[command.request_id].drop_attempt()

    def _fail_stream(self, command: FailStream) -> None:
        driven = self.exchanges[command.request_id]
        run = driven.running
        if run is not None:
            self._metrics.relayed_pieces += run.sent_pieces
        if driven.phase is ANSWERING and self.max_continuations and run is not None and run.event_stream:
            if driven.complete():
                del self.exchanges[command.request_id]
                self.carried.ended_whole(command.request_id)
                self._note_answer(driven, run)
                self._metrics.outcomes[Outcome.OK] += 1
                self._ended(driven, Outcome.OK, OK_STATUS)
                return
            context_tokens = self._admission.models.context_tokens(driven.asked.request.model)
            rest = driven.go_on_elsewhere(command.cause, self.max_continuations, context_tokens)
            if rest is not None:
                self.handle(rest, driven.asked.core)
                return
            self._metrics.continuations[command.cause, Continuation.NOT_EXACT] += 1
        elif driven.rest is not None:
            self._metrics.continuations[driven.rest.cause, Continuation.FAILED] += 1
        self._end_stream(driven, command.cause)

    def _end_stream(self, driven: Driven, cause: FailureCause) -> None:
        del self.exchanges[driven.arrived.id]
        if (gone := self.stateful.gone(driven, cause)) is not None:
            self._answer_error(driven, Outcome.FAILED, gone)
            return
        outcome = Outcome.FAILED_STREAM if driven.phase in (ANSWERING, HALTED) else Outcome.FAILED
        self._metrics.outcomes[outcome] += 1
        driven.fail(cause)
        self._ended(driven, outcome, failed(cause).status)

    def _fail_begun(self, request_id: str) -> None:
        """End a request whose attempt is lost in mid-answer, where the core would begin again or reject it: it is not
        told that a plain answer has begun, since that is not the first token."""
        self._fail_stream(FailStream(request_id, FailureCause.INSTANCE_LOST))

    def _answer_error(self, driven: Driven, outcome: Outcome, error: HttpError) -> None:
        self._metrics.outcomes[outcome] += 1
        driven.answer_error(error)
        self._ended(driven, outcome, error.status)

    def _latencies(self, driven: Driven) -> Latencies:
        asked, admission = driven.asked, self._admission
        return self._metrics.latencies.of(admission.pool_names[asked.core], admission.models.known(asked.request.model))

    def _ended(self, driven: Driven, outcome: Outcome, status: int) -> None:
        for watcher in self.watchers:
            watcher.ended(driven, outcome, status)
        driven.let_go()

    # What the gateway calls.

    def sweep(self, now: float, limits: HttpLimits, heartbeat_s: float) -> None:
        """Fail the attempts whose instances have sent nothing for too long, and send comments to those who have waited
        so long for the first token of a stream; called periodically. heartbeat_s: 0: nobody is sent any."""
        work = self._connections.work
        for driven in list(self.exchanges.values()):
            if heartbeat_s:
                driven.keep_open(now, heartbeat_s)
            if driven.is_stalled(now, limits, work):
                driven.drop_attempt()
                if driven.running is not None:
                    self.attempt_failed(driven, driven.running, FailureCause.STALLED)

    def end_unanswered(self) -> None:
        """End the requests whose clients have had nothing of an answer: the gateway stops, and waits no longer."""
        waiting_first = sorted(self.exchanges.values(), key=lambda driven: driven.phase is not WAITING)
        for driven in waiting_first:  # so that none of them takes the place of one that ran
            if driven.phase not in (ANSWERING, HALTED):
                request_id = driven.arrived.id
                del self.exchanges[request_id]
                self._answer_error(driven, Outcome.FAILED, stopping())
                self.handle(RequestCancelled(request_id), driven.asked.core)

    def refuse_unknown(self, request_ids: Iterable[str]) -> None:
        """Answer those requests, which are held, whose model nobody serves, as is known by now."""
        for request_id in request_ids:
            driven = self.exchanges.get(request_id)
            if driven is None or driven.phase is not WAITING:
                continue
            if (error := self._admission.gone(driven.asked)) is not None:
                del self.exchanges[request_id]
                self._answer_error(driven, Outcome.CLIENT_ERROR, error)
                self.handle(RequestCancelled(request_id), driven.asked.core)

    def close_when_answered(self) -> None:
        """Let each client's connection end with its answer."""
        for driven in self.exchanges.values():
            driven.arrived.http.close = True
