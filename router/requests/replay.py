"""An answer of which the client has part, made again from its beginning by another instance, as it was asked for."""

from dataclasses import replace

from dualmap.router.apis.token_ids import ASK_FOR_IDS
from dualmap.router.requests.answer_replay import AnswerReplay, Record
from dualmap.router.requests.asked import Arrived, Asked
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.request import Request

DIFFERS = "another one gives another answer"


class Replay:
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
        """before: the replay that failed, too. failed, began_at: the attempt that failed."""
        self.record = record
        self.cause = cause
        self.number: int = 1 if before is None else before.number + 1
        failed_on = () if before is None else before.failed_on
        self.failed_on: tuple[str, ...] = tuple(dict.fromkeys((*failed_on, failed.instance_id)))
        self.queued_s: float = failed.queued_s if before is None else before.queued_s
        self.began_at: float = began_at if before is None else before.began_at
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
    if record is None or arrived.api.replayed is None or not asked.prompt.body:
        return None
    if not (before is None or isinstance(before, Replay)) or not record.noted_in(arrived.api.replayed()):
        return None
    return Replay(arrived, asked, record, cause=cause, before=before, failed=failed, began_at=began_at)
