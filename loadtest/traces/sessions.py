"""Which request is the next turn of which: a trace carries no session ids, but its block ids tell.

Request j continues i if j repeats every full block of i (all but i's partial last one, which the next turn fills up
with other content) and is longer. A prefix that many conversations share says nothing about sessions, so at least one
of the repeated blocks must lie beyond it.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from dualmap.loadtest.traces.trace import TraceRequest

SHARED_BRANCHES = 4  # a block that goes on in so many ways is the end of a shared system prompt, not a turn of one chat


def predecessors(requests: Sequence[TraceRequest]) -> list[int | None]:
    """For each request the index of the turn before it, or None. Requests are in order of arrival.

    The longest repeated prefix wins, and among equal ones the latest request. Costs one look-up a block.
    """
    shared = _shared_prompt_ends(requests)
    ends_at: dict[int, list[int]] = defaultdict(list)  # id of the last full block -> requests that end there
    found: list[int | None] = []
    for index, request in enumerate(requests):
        found.append(_predecessor(request, requests, ends_at))
        if request.full_blocks:
            last_full = request.hash_ids[request.full_blocks - 1]
            if last_full not in shared:
                ends_at[last_full].append(index)
    return found


def _predecessor(request: TraceRequest, requests: Sequence[TraceRequest], ends_at: dict[int, list[int]]) -> int | None:
    for block_id in reversed(request.hash_ids):
        for earlier in reversed(ends_at.get(block_id, ())):
            if requests[earlier].input_length < request.input_length:
                return earlier
    return None


def _shared_prompt_ends(requests: Sequence[TraceRequest]) -> set[int]:
    """Blocks after which at least SHARED_BRANCHES different full blocks follow.

    Partial blocks do not count: each short turn of one chat leaves one behind.
    """
    followers: dict[int, set[int]] = defaultdict(set)
    for request in requests:
        full = request.hash_ids[: request.full_blocks]
        for block_id, follower in pairwise(full):
            followers[block_id].add(follower)
    return {block_id for block_id, ids in followers.items() if len(ids) >= SHARED_BRANCHES}
