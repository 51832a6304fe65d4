"""What a reader made of a case, held against the standards' rule and against the server alone."""

import re
from enum import StrEnum
from urllib.parse import unquote_to_bytes

from dualmap.loadtest.parsing.case import EITHER, FREE, MARK, READ, Case
from dualmap.loadtest.parsing.send import Outcome, Seen

_AUTHORITY = re.compile(r"^https?://[^/?#]*", re.IGNORECASE)


class Judgement(StrEnum):
    KEPT = "as the standards say"
    STRICTER = "refused, though it could be read"
    BROKEN = "against the standards"


def judge(case: Case, outcome: Outcome) -> Judgement:
    bodies = tuple(seen.body.encode("latin-1") for seen in outcome.seen)
    expected = tuple(body.replace(MARK, b"%05d" % outcome.number) for body in case.bodies)
    if case.rule is FREE:
        return Judgement.KEPT
    if case.rule is READ:
        if bodies == expected:
            return Judgement.KEPT
        return Judgement.STRICTER if outcome.refused and not bodies else Judgement.BROKEN
    if case.rule is EITHER and bodies == expected[: len(bodies)]:  # also where it stops behind the first
        return Judgement.KEPT
    return Judgement.BROKEN if bodies else Judgement.KEPT


def differs(outcome: Outcome, alone: Outcome) -> bool:
    """Whether what reached the server is another thing than what it reads of the same bytes by itself. What is refused
    reaches nobody; a path may be spelled in another way that means the same."""
    if not outcome.seen:
        return False
    through, by_itself = ([_meant(seen) for seen in one.seen] for one in (outcome, alone))
    if 400 in alone.statuses:  # it drops what it has read before what it refuses
        through = through[: len(by_itself)]
    return through != by_itself[: len(through)]


def _meant(seen: Seen) -> tuple[str, bytes, str, str]:
    path, _, query = _AUTHORITY.sub("", seen.target).partition("?")
    segments: list[bytes] = []
    for segment in unquote_to_bytes(path).split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in (b"", b"."):
            segments.append(segment)
    return seen.method, b"/".join(segments), query, seen.body
