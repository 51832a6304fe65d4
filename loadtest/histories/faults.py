"""What a history can show that must not be."""

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """What every history must keep to."""

    ENDS_ONCE = "ends once"  # each request is answered, refused, failed or left by its client, and nothing follows
    ONE_AT_A_TIME = "one at a time"  # no second instance gets a request before its attempt at the first one is over
    ONE_ANSWER = "one answer"  # who has part of an answer gets no other from its beginning
    THERE = "there"  # only an instance that takes requests gets one
    IN_ORDER = "in order"  # attempts are counted from 1, without gaps
    GIVEN_BACK = "given back"  # what was booked is free again, and the books never contradict themselves
    REPLAYS = "replays"  # the same events give the same commands
    SAME_AS_SEEN = "same as seen"  # client and gateway tell the same end of a request
    SAME_COUNT = "same count"  # client and gateway count the same tokens
    EVERY_TOKEN_ONCE = "every token once"  # none is missing in an answer, none is there twice
    WITHIN_LIMITS = "within limits"  # a key is granted what its limits allow
    NO_ERROR = "no error"  # the core takes every event


@dataclass(frozen=True, slots=True)
class Fault:
    """about: a request's id, an instance, a key; empty: all of the history. where: name of the history."""

    rule: Rule
    about: str
    says: str
    where: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, f"[{self.rule}]", self.about, self.says)))
