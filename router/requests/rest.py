"""What is left of an answer whose client has part of it, and how another instance is asked for that."""

from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from dualmap.router.apis.chunk_stream import DONE
from dualmap.router.apis.derendered import Derender, DerenderedChunks, why_not_derendered
from dualmap.router.apis.rest_by_ids import RestByIds, read_fields
from dualmap.router.apis.stop_strings import StopStrings, read_stops
from dualmap.router.apis.token_ids import TokenIds
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.requests.answer_rest import AnswerRest
from dualmap.router.requests.answer_verdict import has_end, lacks_done
from dualmap.router.requests.asked import Arrived, Asked
from dualmap.router.requests.joint import find_joint
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.request import Request

_USAGE = b'"prompt_tokens"'


class Course:
    """How an answer has gone on. cause: why it has to go on elsewhere. number: how many times it has gone on, this time
    included. failed_on: the instances that it was on. queued_s, began_at: how long the attempt waited that began the
    answer, and when the client was sent the first of it, in the gateway's clock."""

    nobody = "none could take what is left of it"

    def __init__(self, cause: FailureCause, before: "Course | None", failed: Dispatch, began_at: float) -> None:
        """before: how it went on before, if it did. failed, began_at: the attempt that failed."""
        self.cause = cause
        self.number: int = 1 if before is None else before.number + 1
        failed_on = () if before is None else before.failed_on
        self.failed_on: tuple[str, ...] = tuple(dict.fromkeys((*failed_on, failed.instance_id)))
        self.queued_s: float = failed.queued_s if before is None else before.queued_s
        self.began_at: float = began_at if before is None else before.began_at


class Rest(Course):
    """request: as the core is told of it. target, body: of the request to an instance; the body is complete once the
    rest is joined. ids: of the answer so far. chunks: what an instance sends, as the client gets it. is_joined: it is
    known exactly where the answer was cut."""

    not_joined = FailureCause.BROKEN

    def __init__(
        self,
        asked: Asked,
        api_rest: RestByIds,
        fields: dict[str, Any],
        ids: TokenIds,
        *,
        tokens_left: int,
        cause: FailureCause,
        before: "Rest | None",
        failed: Dispatch,
        began_at: float,
    ) -> None:
        """before: the rest that it is the rest of. Raises msgspec.MsgspecError where the first chunk of the answer
        cannot be read."""
        super().__init__(cause, before, failed, began_at)
        self.chunks = api_rest.chunks(ids, *_usage_asked(asked, fields))
        self.target = api_rest.target
        self.ids = ids
        self._api_rest = api_rest
        self._fields = fields
        self._stops = read_stops(fields.get("stop"))
        self.is_joined = ids.one_by_one and not self._stops
        self.body = api_rest.body(fields, ids, tokens_left)
        self._tokens_left = tokens_left
        tokens = ids.prompt_tokens + ids.seen_tokens
        self.request: Request = replace(
            asked.request,
            prompt_tokens=tokens,
            max_output_tokens=tokens_left,
            length_tokens=tokens + tokens_left if asked.request.length_tokens else 0,
            goes_on_after=failed.attempt,
            sent_tokens=ids.seen_tokens,
        )

    def lines(self, arrived: Arrived) -> list[bytes]:
        """Of the head of what an instance is asked on the way."""
        return [*arrived.http.forwarded, b"x-request-id: %b\r\n" % arrived.request_id]

    def answer(self) -> AnswerRest:
        """Of one attempt."""
        return AnswerRest(self.chunks)

    async def join(self, pool: UpstreamPool, arrived: Arrived) -> bool:
        """Ask an instance where the answer was cut; returns whether that is known."""
        fields, ids = self._fields, self.ids
        chars = max(map(len, self._stops), default=1) - 1 if self._stops else 0
        joint = await find_joint(pool, self.lines(arrived), fields.get("model"), ids, chars)
        if joint is None or (joint.dropped_tokens and not ids.hides):
            return False
        ids.drop_last(joint.dropped_tokens)
        self._tokens_left += joint.dropped_tokens
        self.body = self._api_rest.body(fields, ids, self._tokens_left)
        if self._stops:
            included = bool(fields.get("include_stop_str_in_output"))
            self.chunks.stops = StopStrings(self._stops, included=included, text=joint.text)
        self.chunks.tokens = ids.seen_tokens
        self.is_joined = True
        return True


class ParsedRest(Rest):
    """What is left of a chat whose text the server's parsers read. derender: of one attempt, for what it is given."""

    not_joined = FailureCause.NOT_HERE

    def __init__(self, why: str, *about: Any, **more: Any) -> None:
        """why: parsers read it. about, more: see Rest."""
        super().__init__(*about, **more)
        self.why = why
        self.nobody = f"{why}, and {Rest.nobody}"
        self.is_joined = False
        self._seen = self.ids.seen_tokens
        chunks = self.chunks
        self.chunks = DerenderedChunks(self.ids, chunks.wants_usage, chunks.wants_usages)

    def derender(self) -> Derender:
        return Derender(self._fields, self.ids)

    async def join(self, pool: UpstreamPool, arrived: Arrived) -> bool:
        """An attempt of which the client has seen nothing may have given ids, which count."""
        seen = self.ids.seen_tokens
        self._tokens_left -= seen - self._seen
        self._seen = seen
        self.body = self._api_rest.body(self._fields, self.ids, self._tokens_left)
        return pool.derenders


def ending_of(asked: Asked, api_rest: RestByIds, ids: TokenIds | None, tail: bytes) -> bytes | None:
    """What the client lacks of an answer of one choice that has its finish reason; None of one that has not, or where
    it is not known. ids: None: its instance tells none. tail: the last that the client has."""
    if not has_end(tail):
        return None
    if not lacks_done(tail):
        return b""
    fields = read_fields(asked.prompt.body)
    if fields is None:
        return None
    if ids is not None:
        api_rest.know_prompt(fields, ids)
    if ids is None or not ids.known:
        return DONE if _USAGE in tail or not _usage_asked(asked, fields)[0] else None
    try:
        return api_rest.chunks(ids, *_usage_asked(asked, fields)).ending(tail)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _usage_asked(asked: Asked, fields: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the client asked for an event with the usage, and for it with each chunk."""
    options = fields.get("stream_options")
    asks = options if isinstance(options, dict) and not asked.prompt.hides_usage else {}
    usage = bool(asks.get("include_usage"))
    return usage, usage and bool(asks.get("continuous_usage_stats"))


def rest_of(
    asked: Asked,
    api_rest: RestByIds,
    ids: TokenIds,
    *,
    cause: FailureCause,
    before: Rest | None,
    failed: Dispatch,
    began_at: float,
    context_tokens: int,
) -> Rest | str:
    """What is left of an answer, or why no other instance can go on with it. context_tokens: see RestByIds; the rest:
    see Rest."""
    fields = read_fields(asked.prompt.body)
    if fields is None:
        return "its request is not kept"
    api_rest.know_prompt(fields, ids)
    if why_not := api_rest.hindrance(fields, ids):
        return why_not
    why = before.why if isinstance(before, ParsedRest) else api_rest.parsed(fields, ids)
    if why and (why_not := why_not_derendered(fields)):
        return f"{why}, and {why_not}"
    ids.go_on(behind_all=bool(why or read_stops(fields.get("stop"))))
    try:
        tokens_left = api_rest.tokens_left(fields, ids, context_tokens)
    except msgspec.MsgspecError:  # its instance took no offence
        return "how long it may become is no number"
    if tokens_left is None:
        return "how long it may become is not known"
    if tokens_left <= 0:
        return "it has as many tokens as it may have"
    try:
        return (partial(ParsedRest, why) if why else Rest)(
            asked,
            api_rest,
            fields,
            ids,
            tokens_left=tokens_left,
            cause=cause,
            before=before,
            failed=failed,
            began_at=began_at,
        )
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "its first chunk cannot be read"
