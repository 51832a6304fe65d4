"""Whether each API key was granted what its limits allow, no more, and not refused while it was far from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dualmap.loadtest.histories.faults import Fault, Rule

MINUTE_S = 60.0
SLACK = 1.0  # requests, and seconds: a grant and its answer are not told in the same moment


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A request that came with a key, as its client saw it. gateway: process that answered. at_s: when it was sent.
    granted: it was not refused for its key."""

    key: str
    gateway: str
    at_s: float
    granted: bool


def key_faults(rows: Sequence[KeyRow], requests_per_minute: Mapping[str, float], gateways: int) -> list[Fault]:
    """gateways: that grant the limits together, each its part; one that was started again begins with a full minute."""
    faults = []
    for key, limit in requests_per_minute.items():
        mine = sorted((row for row in rows if row.key == key), key=lambda row: row.at_s)
        granted = [row for row in mine if row.granted]
        started = max(gateways, len({row.gateway for row in mine}))
        for first, row in enumerate(granted):
            for last in range(first, len(granted)):
                window_s = granted[last].at_s - row.at_s
                allowed = limit * (started / gateways + window_s / MINUTE_S) + SLACK
                if last - first + 1 > allowed:
                    says = f"{last - first + 1} requests in {window_s:.1f} s, where {allowed:.0f} are allowed"
                    faults.append(Fault(Rule.WITHIN_LIMITS, key, says))
                    break
            if faults and faults[-1].about == key:
                break
        for row in mine:
            if row.granted:
                continue
            from_s, to_s = row.at_s - MINUTE_S, row.at_s + SLACK
            before = sum(one.gateway == row.gateway and from_s <= one.at_s <= to_s for one in granted)
            if before + SLACK < limit / gateways:
                says = f"refused by {row.gateway}, which had granted it {before} in the minute before"
                faults.append(Fault(Rule.WITHIN_LIMITS, key, says))
                break
    return faults
