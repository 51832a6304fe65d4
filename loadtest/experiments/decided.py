"""What a core decided of each request, and what came of it, from the events and commands of a journal.

A journal of a live gateway and one of a core in virtual time are read alike, so that they can be laid side by side.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan

from dualmap.router.journal.format import Record
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FirstToken, RequestArrived, RequestFinished
from dualmap.scheduler.request import Request


@dataclass(slots=True)
class Decided:
    """One request. Times in seconds of the journal's clock, nan where it did not come to that.

    instance_id, reason, attempts: of the last dispatch. prompt_tokens, cached_tokens: as the instance counted them.
    """

    request: Request
    arrived_s: float
    dispatched_s: float = nan
    first_token_s: float = nan
    finished_s: float = nan
    instance_id: str = ""
    reason: str = ""
    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def ttft_s(self) -> float:
        """As the gateway sees it: from the whole request to the first event that holds a token."""
        return self.first_token_s - self.arrived_s


def decided(records: Iterable[Record]) -> dict[str, Decided]:
    """By request id, in the order of arrival."""
    found: dict[str, Decided] = {}
    for record in records:
        event = record.event
        match event:
            case RequestArrived():
                found[event.request.id] = Decided(event.request, record.t)
            case FirstToken():
                found[event.request_id].first_token_s = record.t
            case RequestFinished():
                one = found[event.request_id]
                one.finished_s = record.t
                one.prompt_tokens = event.prompt_tokens or 0
                one.cached_tokens = event.cached_tokens or 0
                one.output_tokens = event.output_tokens
        for command in record.commands:
            if isinstance(command, Dispatch):
                one = found[command.request_id]
                one.dispatched_s = record.t
                one.instance_id = command.instance_id
                one.reason = command.reason.value
                one.attempts = command.attempt
    return found
