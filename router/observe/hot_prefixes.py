"""The prefixes that most of the last requests shared, by their ring key: a hash, from which no prompt can be read."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from dualmap.router.observe.recent_decisions import Decision
from dualmap.router.observe.ring_picture import turn
from dualmap.scheduler.policies.dualmap import DualMap
from dualmap.scheduler.request import Request

MOST_SHOWN = 8
LEAST_REQUESTS = 2  # one request is no shared prefix


def hot_prefixes(policy: DualMap, decisions: Iterable[Decision]) -> list[dict[str, Any]]:
    """Hottest first, as plain values. turns: where it is on each ring, 0 to 1. ran_on: requests by instance. depth: how
    many blocks form the key."""
    counts: Counter[int] = Counter()
    depths: dict[int, int] = {}
    asked: dict[int, Request] = {}  # one that has the key
    ran_on: dict[int, Counter[str]] = {}
    for decision in decisions:
        if blocks := decision.attempt.request.chain:
            key = policy.key_of(decision.attempt.request)
            counts[key] += 1
            asked[key] = decision.attempt.request
            depths[key] = blocks.index(key) + 1
            ran_on.setdefault(key, Counter())[decision.dispatch.instance_id] += 1
    ordered = sorted(counts, key=lambda key: (-counts[key], key))
    return [
        {
            "key": f"{key:016x}"[:8],
            "depth": depths[key],
            "requests": counts[key],
            "turns": [turn(ring, key) for ring in policy.rings.rings],
            "candidates": list(policy.candidates_of(key, asked[key])),
            "ran_on": dict(ran_on[key].most_common()),
        }
        for key in ordered[:MOST_SHOWN]
        if counts[key] >= LEAST_REQUESTS
    ]
