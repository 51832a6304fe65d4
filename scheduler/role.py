"""Which part of a request an attempt is, and which parts an instance takes: where some instances compute prompts for
others that answer."""

from enum import StrEnum


class Leg(StrEnum):
    """What an attempt does of its request."""

    WHOLE = "whole"
    PREFILL = "prefill"  # computes the prompt, and makes one token that nobody sees
    DECODE = "decode"  # fetches what was computed of the prompt, and answers


WHOLE, PREFILL, DECODE = Leg  # a name is found five times as fast as the attribute of an enum


class Role(StrEnum):
    """What an instance is there for."""

    BOTH = "both"
    PREFILL = "prefill"  # takes nothing but prefill legs
    DECODE = "decode"  # takes decode legs and whole requests

    def takes(self, leg: Leg) -> bool:
        return self is Role.BOTH or (self is Role.PREFILL) is (leg is Leg.PREFILL)
