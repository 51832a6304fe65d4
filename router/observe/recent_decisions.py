"""The last requests that were sent to instances, and why there: what `dualmap explain` tells."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from time import time
from typing import Any

from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.record import record

MOST = 4096  # of about 1 KB each
MOST_MOVES = 50


@record
class Decision:
    """at: seconds since 1970. request_id: what the client calls it."""

    at: float
    pool: str
    request_id: str
    model: str
    dispatch: Dispatch
    attempt: Attempt


class RecentDecisions:
    """Kept on the request path: noting one costs a microsecond, and all else is done when somebody asks."""

    def __init__(self) -> None:
        self._decisions: deque[Decision] = deque(maxlen=MOST)
        self._moved: deque[Decision] = deque(maxlen=MOST_MOVES)

    def note(self, pool: str, request_id: bytes, model: str, dispatch: Dispatch, attempt: Attempt) -> None:
        """request_id: what the client calls it."""
        name = request_id.decode("latin-1")
        decision = Decision(time(), pool, name, model, dispatch, attempt)
        self._decisions.append(decision)
        if attempt.moves:
            self._moved.append(decision)

    def latest(self) -> Iterator[Decision]:
        """Newest first."""
        return reversed(self._decisions)

    def moved(self) -> Iterator[Decision]:
        """The last ones that had moved while they waited, newest first."""
        return reversed(self._moved)

    def find(self, request_id: str) -> list[dict[str, Any]]:
        """Each time a request was sent, by the client's id or the gateway's, oldest first, as plain values."""
        return [
            _described(decision)
            for decision in self._decisions
            if request_id in (decision.request_id, decision.dispatch.request_id)
        ]


def _described(decision: Decision) -> dict[str, Any]:
    dispatch, attempt = decision.dispatch, decision.attempt
    request = attempt.request
    return {
        "at": decision.at,
        "request_id": decision.request_id,
        "model": decision.model,
        "tenant": request.tenant,
        "adapter": request.adapter,
        "priority": request.priority,
        "prompt_tokens": request.prompt_tokens,
        "attempt": dispatch.attempt,
        "leg": dispatch.leg.value,
        "instance_id": dispatch.instance_id,
        "reason": dispatch.reason.value,
        "queued_s": dispatch.queued_s,
        "estimated_ttft_s": dispatch.estimated_ttft_s,
        "cached_tokens": dispatch.cached_tokens,
        "in_tiers": {} if dispatch.loads is None else dict(dispatch.loads.tokens),
        "tpot_slo_s": attempt.tpot_slo_s,
        "moves": attempt.moves,
        "candidates": list(attempt.candidates),
        "failed_on": sorted(attempt.tried),
        "considered": [asdict(estimate) for estimate in attempt.considered],
        "story": attempt.story(),
    }
