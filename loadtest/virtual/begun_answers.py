"""Answers that clients have part of: how many tokens they have, and what is left where an instance fails them."""

from dataclasses import dataclass, replace

from dualmap.scheduler.request import Request


@dataclass(slots=True)
class _Begun:
    """asked: as the core was told first. instance_id, attempt: its last dispatch. sent: tokens that its client has of
    attempts that are over. failed_on: where these ran."""

    asked: Request
    instance_id: str = ""
    attempt: int = 0
    sent: int = 0
    failed_on: tuple[str, ...] = ()
    continued: int = 0


class BegunAnswers:
    """Of one cluster. most: how often an answer may go on."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: dict[str, _Begun] = {}

    def arrive(self, request: Request) -> None:
        self._begun[request.id] = _Begun(request)

    def dispatch(self, request_id: str, attempt: int, instance_id: str) -> None:
        begun = self._begun[request_id]
        begun.attempt, begun.instance_id = attempt, instance_id

    def place(self, request_id: str) -> tuple[str, int]:
        """Its last dispatch: instance, attempt."""
        begun = self._begun[request_id]
        return begun.instance_id, begun.attempt

    def sent(self, request_id: str) -> int:
        """Tokens of attempts before the one that runs."""
        return self._begun[request_id].sent

    def rest(self, request_id: str, made: int, output_tokens: int) -> tuple[Request, tuple[str, ...]] | None:
        """What is left after so many tokens of the last attempt, and the instances that failed it; None where its
        client has nothing, or it has gone on often enough. output_tokens: of the whole answer."""
        begun = self._begun[request_id]
        sent = begun.sent + made
        if not made or begun.continued >= self._most:
            return None
        begun.sent = sent
        begun.continued += 1
        begun.failed_on = tuple(dict.fromkeys((*begun.failed_on, begun.instance_id)))
        asked = begun.asked
        rest = replace(
            asked,
            prompt_tokens=asked.prompt_tokens + sent,
            max_output_tokens=asked.max_output_tokens and output_tokens - sent,
            goes_on_after=begun.attempt,
            sent_tokens=sent,
        )
        return rest, begun.failed_on

    def end(self, request_id: str) -> None:
        self._begun.pop(request_id, None)
