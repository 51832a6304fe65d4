"""An answer of which the client has part, made again from its beginning by another instance, as it was asked for."""

from dataclasses import replace

import msgspec

from dualmap.router.apis.replayed_chunks import ReplayedChunks
from dualmap.router.apis.stream_event import whole_events
from dualmap.router.apis.token_ids import ASK_FOR_IDS
from dualmap.router.requests.answer_replay import AnswerReplay, Record
from dualmap.router.requests.asked import Arrived, Asked
from dualmap.router.requests.rest import Course
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.request import Request

DIFFERS = "another one gives another answer"


class Replay(Course):
    """See Rest. record: of what the client has."""

    ids = None
    is_joined = True

    def __init__(
        self,
        arrived: Arrived,
        asked: Asked,
        record: Record,
        *,
        cause: FailureCause,
        before: "Replay | None",
        failed: Dispatch,
        began_at: float,
    ) -> None:
        """before: the replay that failed, too."""
        super().__init__(cause, before, failed, began_at)
        self.record = record
        self.target = arrived.http.target
        prompt = asked.prompt
        self.body = prompt.body.replace(ASK_FOR_IDS, b"", 1) if prompt.hides_ids else prompt.body
        # Not as a stream: the first that the client gets comes after all that it has, and tells nothing of the pace.
        self.request: Request = replace(asked.request, goes_on_after=failed.attempt, streams=False)
        self._api = arrived.api
        self._hides_usage = prompt.hides_usage

    def answer(self) -> AnswerReplay:
        """Of one attempt."""
        assert self._api.replayed is not None
        replayed = self._api.replayed()
        self.record.noted_in(replayed)
        return AnswerReplay(self._api.stream, replayed, self.record, self._hides_usage)


class ByText(Replay):
    """What is left of the answer, asked for by its text so far."""

    def __init__(
        self,
        arrived: Arrived,
        asked: Asked,
        record: Record,
        body: bytes,
        sent_tokens: int,
        *,
        cause: FailureCause,
        before: "Replay | None",
        failed: Dispatch,
        began_at: float,
    ) -> None:
        """body: of the request. sent_tokens: of the answer so far."""
        super().__init__(arrived, asked, record, cause=cause, before=before, failed=failed, began_at=began_at)
        self.body = body
        request = self.request
        self.request = replace(
            request,
            prompt_tokens=request.prompt_tokens + sent_tokens,
            max_output_tokens=max(0, request.max_output_tokens - sent_tokens),
            sent_tokens=sent_tokens,
            streams=True,
        )
        self._sent_tokens = sent_tokens

    def answer(self) -> AnswerReplay:
        replayed = ReplayedChunks()
        self.record.noted_in(replayed)
        replayed.go_on_after(self._sent_tokens)
        return AnswerReplay(self._api.stream, replayed, self.record, self._hides_usage)


def replay_of(
    arrived: Arrived,
    asked: Asked,
    record: Record | None,
    *,
    cause: FailureCause,
    before: object,
    failed: Dispatch,
    began_at: float,
) -> Replay | None:
    """None where the answer cannot be made again: it may become another one, or is too long for that. before: how the
    answer went on before, if it did."""
    prompt, api = asked.prompt, arrived.api
    if record is None or record.events is None or not prompt.body or not (before is None or isinstance(before, Replay)):
        return None
    if prompt.may_replay and not isinstance(before, ByText):
        if api.replayed is None or not record.noted_in(api.replayed()):
            return None
        return Replay(arrived, asked, record, cause=cause, before=before, failed=failed, began_at=began_at)
    if not prompt.by_text or api.by_text is None:
        return None
    try:
        found = api.by_text(msgspec.json.decode(prompt.body), whole_events(b"".join(record.events))[0])
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if found is None:
        return None
    body = msgspec.json.encode(found[0])
    return ByText(arrived, asked, record, body, found[1], cause=cause, before=before, failed=failed, began_at=began_at)
