"""What clients saw, held against what the gateways' journals tell of the same requests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dualmap.loadtest.histories.faults import Fault, Rule
from dualmap.loadtest.histories.journals import Judged
from dualmap.loadtest.histories.lives import Ended, Life
from dualmap.loadtest.replay.run_file import Outcome, RequestRow

ENDS = {
    Outcome.OK: {Ended.ANSWERED},
    Outcome.SHED: {Ended.REFUSED},
    Outcome.HTTP_ERROR: {Ended.REFUSED, Ended.FAILED, Ended.ANSWERED},  # an instance's own error is relayed
    Outcome.BROKEN: {Ended.FAILED, Ended.LEFT},
    Outcome.TIMEOUT: {Ended.LEFT},
}


@dataclass(frozen=True, slots=True)
class Row:
    """One request as its client saw it. request_id: as the gateway named it; empty where no head came. tokens: as
    `usage` counts them; None where it came not."""

    index: int
    request_id: str
    outcome: Outcome
    detail: str = ""
    tokens: int | None = None


def row_of(row: RequestRow) -> Row:
    return Row(row.index, row.request_id or "", row.outcome, row.detail, row.completion_tokens)


def row_faults(rows: Iterable[Row], judged: Sequence[Judged], where: str = "clients") -> list[Fault]:
    """judged: of all gateways. A killed one's journal may lack what its last second was."""
    told: dict[str, list[Life]] = {}
    for history in judged:
        for life in history.lives.by_id.values():
            told.setdefault(life.request_id, []).append(life)
    whole = all(history.closed for history in judged)
    faults: list[Fault] = []
    seen: set[str] = set()
    for row in rows:
        about = row.request_id or f"request {row.index}"
        if row.outcome is Outcome.UNFINISHED:
            faults.append(Fault(Rule.ENDS_ONCE, about, "has no end for its client", where))
        if not row.request_id:
            continue
        if row.request_id in seen:
            faults.append(Fault(Rule.ENDS_ONCE, about, "two clients have answers to it", where))
        seen.add(row.request_id)
        lives = told.get(row.request_id, [])
        answered = [life for life in lives if life.ended is Ended.ANSWERED]
        if len(answered) > 1:
            faults.append(Fault(Rule.ENDS_ONCE, about, f"{len(answered)} gateways answered it", where))
        if not _agree(row, lives, whole):
            ends = ", ".join(life.ended for life in lives) or "unknown"
            says = f"is {row.outcome} ({row.detail or 'no detail'}) for its client, and {ends} for its gateway"
            faults.append(Fault(Rule.SAME_AS_SEEN, about, says, where))
        elif row.outcome is Outcome.OK and row.tokens is not None:
            counts = [life.output_tokens for life in answered if life.output_tokens != row.tokens]
            says = f"has {row.tokens} tokens, and {counts} for its gateway"
            faults += [Fault(Rule.SAME_COUNT, about, says, where)] if counts else []
    return faults


def _agree(row: Row, lives: Sequence[Life], whole: bool) -> bool:
    """Whether one of the lives ended as the client saw it. Who is refused for its key, or its body, has none."""
    if not lives:
        return not whole or row.outcome in (Outcome.SHED, Outcome.HTTP_ERROR)
    expected = ENDS.get(row.outcome)
    if expected is None or any(life.ended in expected for life in lives):
        return True
    if row.outcome is Outcome.OK and any(life.ended is Ended.FAILED and life.begun for life in lives):
        return True  # it had every token when its instance failed, and its gateway gave it its end
    return not whole and any(life.ended is Ended.OPEN for life in lives)
