"""Cases that are alike: what they are called, and the worst of each kind."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from dualmap.loadtest.harm.case import BLOCK_TOKENS, Case
from dualmap.loadtest.harm.harm import MAY_MISS, Evaluation

HOT_SHARE = 0.1  # of the sessions: less is no hot prefix
LONG_ANSWER_TOKENS = 400


class Group(StrEnum):
    """What a search keeps apart, so that one weakness does not hide the others."""

    SHORT_TAILS = "hot prefix, tails below a block"  # no full block tells the requests apart
    LONG_TAILS = "hot prefix, tails of blocks"
    NOT_HOT = "no hot prefix"


def group_of(case: Case) -> Group:
    if case.hot_share < HOT_SHARE:
        return Group.NOT_HOT
    return Group.SHORT_TAILS if case.tail_tokens < BLOCK_TOKENS else Group.LONG_TAILS


def kind_of(case: Case) -> tuple[str, ...]:
    """In words; the first is the group."""
    group = group_of(case)
    words: list[str] = [group]
    if group is not Group.NOT_HOT:
        number = "one" if case.hot_prefixes == 1 else "several"
        words.append(f"{number} for {'all' if case.hot_share > 0.95 else 'some'}")
    if case.turns > 1:
        words.append("chats" if case.think_s else "agents")
    if case.answer_tokens == 1:
        words.append("prefill only")
    elif case.answer_tokens >= LONG_ANSWER_TOKENS:
        words.append("long answers")
    if case.burst_factor > 1.5:
        words.append("bursts")
    if case.slow_instances or (case.speed != 1 and not case.told):
        words.append("speeds told" if case.told else "speeds untold")
    if case.gateways > 1:
        words.append("gateways")
    words.append("2 to 4" if case.instances <= 4 else "5 to 16" if case.instances <= 16 else "17 and more")
    return tuple(words)


def worst_of_kinds(found: Iterable[Evaluation], count: int, group: Group) -> list[Evaluation]:
    """Of each kind of borne cases of the group the one with the most harm, the worst first."""
    worst: dict[tuple[str, ...], Evaluation] = {}
    for one in found:
        kind = kind_of(one.case)
        if one.borne and kind[0] == group and (kind not in worst or one.harm > worst[kind].harm):
            worst[kind] = one
    return sorted(worst.values(), key=lambda one: -one.harm)[:count]


def overloaded(found: Sequence[Evaluation], count: int) -> list[Evaluation]:
    """Of each kind the one that falls furthest short under overload, where that is more than it may."""
    worst: dict[tuple[str, ...], Evaluation] = {}
    for one in found:
        kind = kind_of(one.case)
        short = not one.borne and one.shortfall > MAY_MISS
        if short and (kind not in worst or one.shortfall > worst[kind].shortfall):
            worst[kind] = one
    return sorted(worst.values(), key=lambda one: -one.shortfall)[:count]
