"""One request that this gateway carries itself: between a client's connection, the driver, and an attempt at a time."""

from asyncio import create_task
from dataclasses import replace
from http import HTTPStatus

from dualmap.router.apis.rest_by_ids import without_prompt
from dualmap.router.apis.stream_rules import StreamRules
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.connection_phase import BLOCKED
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.openai_errors import HttpError, failed
from dualmap.router.http.upstream_pool import OpeningConnection, UpstreamPool
from dualmap.router.legs.handoff import Handoff
from dualmap.router.requests.answer_spool import SpoolFeed, SpoolRoom
from dualmap.router.requests.answer_writer import AnswerWriter
from dualmap.router.requests.asked import Arrived, Asked
from dualmap.router.requests.derendering import Derendering
from dualmap.router.requests.driven import DrivenOwner
from dualmap.router.requests.instance_work import InstanceWork
from dualmap.router.requests.leg_runs import DecodeRun, PrefillRun
from dualmap.router.requests.phase import (
    ANSWERING,
    BEGUN,
    DISPATCHED,
    DROPPED,
    ENDED,
    HALTED,
    OVER,
    STOPPED,
    WAITING,
)
from dualmap.router.requests.replay import Replay, replay_of
from dualmap.router.requests.rest import ParsedRest, Rest, ending_of, rest_of
from dualmap.router.requests.running import Carrier, Running
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause, StreamContinued
from dualmap.scheduler.role import PREFILL, WHOLE

NOT_OFFERED = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND)
LARGE_BODY_BYTES = 64 * 1024  # from here it is let go as soon as it can be: a picture may be answered for minutes


class Exchange(Carrier):
    """See Driven, Carrier and Answering."""

    __slots__ = ("_client", "_kept_at", "_owner", "_running", "_writer")

    def __init__(self, owner: DrivenOwner, client: ClientConnection, arrived: Arrived) -> None:
        self.arrived = arrived
        self.asked: Asked
        self._running: Running | None = None
        self.said: HttpError | None = None
        self.rest: Rest | Replay | None = None
        self.handoff: Handoff | None = None
        self.why_cut = ""
        self.phase = WAITING
        self._owner = owner
        self._client = client
        self._kept_at = arrived.at  # when the client was last sent something, or began to wait
        self._writer = AnswerWriter(client.transport.write, arrived.http, arrived.request_id)

    @property
    def running(self) -> Running | None:
        return self._running

    @property
    def rules(self) -> StreamRules:
        """What the events of its answer mean, if that is a stream."""
        return self.arrived.api.stream

    @property
    def spool_room(self) -> SpoolRoom:
        return self._owner.spool_room

    # What the driver orders.

    def admitted(self, asked: Asked) -> None:
        self.asked = asked
        arrived = self.arrived
        if len(arrived.body) > LARGE_BODY_BYTES:  # an instance gets that of `asked`
            arrived.http.body_pieces.clear()
            self.arrived = replace(arrived, body=b"")

    def start_attempt(self, dispatch: Dispatch, pool: UpstreamPool, now: float) -> None:
        self.phase = DISPATCHED[self.phase]
        if self.said is not None and self.said.status in NOT_OFFERED:
            self.said = None  # what another instance does not offer says nothing of this one
        if dispatch.leg is WHOLE:
            self.handoff = None
            running = self._running = Running(self, self._writer, dispatch, pool, now)
        else:
            running = self._running = self._leg(dispatch, pool, now)
            if running.upstream is not None:  # it asks for something first
                return
        if self.rest is None or isinstance(self.rest, Replay) or self.rest.is_joined:
            pool.run(running)
        else:
            running.upstream = OpeningConnection(create_task(self._join(self.rest, pool, running)))

    def _leg(self, dispatch: Dispatch, pool: UpstreamPool, now: float) -> Running:
        if dispatch.leg is PREFILL:
            self.handoff = None
            return PrefillRun(self, self._writer, dispatch, pool, now)
        assert self.handoff is not None, "a decode leg comes after a prefill leg"
        return DecodeRun(self, self._writer, dispatch, pool, now, self.handoff)

    async def _join(self, rest: Rest, pool: UpstreamPool, running: Running) -> None:
        """Find out where the answer was cut before it goes on."""
        if not await rest.join(pool, self.arrived):
            running.attempt_failed(rest.not_joined)
            return
        running.body = rest.body
        if isinstance(rest, ParsedRest):
            pool.run(Derendering(running, pool, rest.derender(), rest.lines(self.arrived)))
        else:
            pool.run(running)

    def drop_attempt(self) -> None:
        self.phase = DROPPED[self.phase]
        if self._running is not None:
            self._running.drop()

    def is_stalled(self, now: float, limits: HttpLimits, work: InstanceWork) -> bool:
        running = self._running
        return running is not None and running.is_stalled(self._client.phase is BLOCKED, now, limits, work)

    def keep_open(self, now: float, heartbeat_s: float) -> None:
        if now - self._kept_at < heartbeat_s or self.phase is ANSWERING or not self.asked.prompt.read.stream:
            return
        if self._client.phase is BLOCKED or not (self.phase is HALTED or self.rules.heartbeats):
            return
        self._kept_at = now
        if self.phase is HALTED:
            self._writer.comment()
            return
        self._writer.keep_open(self.asked.answer_lines)

    def complete(self) -> bool:
        running, api_rest = self._running, self.arrived.api.rest
        if running is None or self.phase is not ANSWERING or api_rest is None or not self.asked.prompt.records_ids:
            return False
        ids = running.ids if self.rest is None else self.rest.ids
        ending = ending_of(self.asked, api_rest, ids, self._writer.tail)
        if ending is None:
            return False
        self.phase = ENDED[self.phase]
        self._writer.go_on(ending, True)
        self._client.answered(close=self.arrived.http.close)
        return True

    def go_on_elsewhere(self, cause: FailureCause, most: int, context_tokens: int) -> StreamContinued | None:
        running, before = self._running, self.rest
        if running is None or self.why_cut:
            return None
        if before is not None and before.number >= most:
            self.why_cut = f"it has gone on {most} times already"
        elif not self._writer.tail.endswith((b"\n\n", b"\r\n\r\n")):
            self.why_cut = "it was cut within an event"
        else:
            rest = self._rest_by_ids(running, cause, context_tokens)
            if isinstance(rest, Rest) and not isinstance(rest, ParsedRest):
                return self._continued_by(rest)
            replay = replay_of(
                self.arrived,
                self.asked,
                running.record,
                cause=cause,
                before=before,
                failed=running.dispatch,
                began_at=running.first_byte_at,
            )
            if replay is not None:
                return self._continued_by(replay)
            if isinstance(rest, Rest):
                return self._continued_by(rest)
            self.why_cut = rest
        return None

    def _rest_by_ids(self, running: Running, cause: FailureCause, context_tokens: int) -> Rest | str:
        """Or why there is none."""
        api_rest, before = self.arrived.api.rest, self.rest
        if isinstance(before, Replay):
            return ""
        if api_rest is None:
            return "its API tells no token ids"
        if not self.asked.prompt.records_ids:
            return "token ids do not say all of it"
        ids = running.ids if before is None else before.ids
        if ids is None:
            return "its instance does not tell token ids"
        return rest_of(
            self.asked,
            api_rest,
            ids,
            cause=cause,
            before=before,
            failed=running.dispatch,
            began_at=running.first_byte_at,
            context_tokens=context_tokens,
        )

    def _continued_by(self, rest: Rest | Replay) -> StreamContinued:
        self.phase = STOPPED[self.phase]
        self.rest = rest
        return StreamContinued(rest.request, rest.failed_on)

    def answer_error(self, error: HttpError) -> None:
        self.drop_attempt()
        self.phase = ENDED[self.phase]
        close = self.arrived.http.close
        if self._writer.is_open:
            self._writer.end_with(self.rules.error_events(error, b""))
            self._client.answered(close=close)
        else:
            self._client.answer(self._writer.whole_error(error), close=close)

    def fail(self, cause: FailureCause) -> None:
        nobody = (self.rest or Rest).nobody if self.phase is HALTED else ""
        error = failed(cause, self.why_cut or nobody)
        if self.phase not in (ANSWERING, HALTED):
            self.answer_error(error)
            return
        self.drop_attempt()
        self.phase = ENDED[self.phase]
        said = None if self._running is None else self._running.error
        rules = self.rules
        if self._writer.end_with(
            rules.error_events(error, self._writer.tail) if said is None else rules.last_events(said)
        ):
            self._client.answered(close=True)
        else:
            self._client.abort()  # the client sees that its answer is cut short

    def let_go(self) -> None:
        self._running = None  # which refers back here: else both, and the body, would wait for the garbage collector

    # What becomes of the attempt.

    def answer_begun(self, run: Running, has_body: bool) -> None:
        self.phase = BEGUN[self.phase]
        if len(run.body) > LARGE_BODY_BYTES:  # no other instance will get it
            run.body = b""
        prompt = self.asked.prompt
        if len(prompt.body) > LARGE_BODY_BYTES and not (prompt.may_replay or prompt.by_text):
            kept = without_prompt(prompt.body) if run.ids is not None or self.rest is not None else b""
            self.asked = replace(self.asked, prompt=replace(prompt, body=kept))
        if self._client.phase is BLOCKED:
            self.client_paused()
        if has_body:
            self._owner.first_byte(self, run)

    def state_made(self, run: Running, state_id: str) -> None:
        self._owner.state_made(self, run, state_id)

    def prefilled(self, run: Running, handoff: Handoff) -> None:
        self.phase = DROPPED[self.phase]
        self.handoff = handoff
        self._owner.prefilled(self, run, handoff)

    def finished(self, run: Running, status: int) -> None:
        self.phase = ENDED[self.phase]
        spool = run.spool
        self._owner.finished(self, run, status)
        if spool is None:
            self._client.answered(close=self.arrived.http.close)
        else:
            self._client.answering = feed = SpoolFeed(spool, self._writer, self._client, self.arrived.http)
            feed.go_on()

    def attempt_failed(self, run: Running, cause: FailureCause) -> None:
        self.phase = DROPPED[self.phase]
        self._owner.attempt_failed(self, run, cause)

    # What the client does (Answering).

    def client_left(self) -> None:
        if self.phase is not OVER:
            self.drop_attempt()
            self.phase = ENDED[self.phase]
            self._owner.cancelled(self)

    def client_paused(self) -> None:
        if self._running is not None and self._running.upstream is not None:
            self._running.upstream.pause_reading()

    def client_resumed(self) -> None:
        if self._running is not None and self._running.upstream is not None:
            self._running.upstream.resume_reading()

    def probe_client(self) -> bool:
        self._writer.probe()
        return True
