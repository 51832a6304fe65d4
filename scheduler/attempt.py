"""One try at running a request on one instance."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dualmap.scheduler.request import ChoiceReason, Request
from dualmap.scheduler.ttft_estimate import TtftEstimate


class AttemptState(StrEnum):
    WAITING = "waiting"  # in the gateway, for its instance; can still move
    PREFILLING = "prefilling"  # dispatched, no token yet
    DECODING = "decoding"  # first token seen (or assumed)


@dataclass(slots=True)
class Attempt:
    """One try at running a request on one instance, and what it has booked there. Owned by the core.

    number: counts the request's dispatches, from 1; a move of a waiting request keeps it.
    uncached_tokens: prompt tokens to compute. work_tokens: the work that is (InstanceView.work_tokens), booked as
    waiting, then as prefilling, until the first token.
    deadline_s: when its first token is due.
    own_kv_tokens: KV cache reserved on the instance from dispatch to the end, besides that of its blocks.
    started: the driver has seen output; unlike DECODING this is never assumed.
    moved_from: where it waited before its last move; empty where it never moved.
    tried: instances on which earlier attempts of the request failed.
    considered: the estimates by which it was placed. shared_blocks: leading blocks of its prompt that many share.
    tpot_slo_s: its objective; 0: it has none. began_at, began_load: when its first token was seen, and how much its
    instance had to read for each token then (InstanceView.decode_load).
    """

    request: Request
    number: int
    arrived_at: float
    instance_id: str
    candidates: tuple[str, ...]
    reason: ChoiceReason
    estimated_ttft_s: float
    cached_tokens: int
    uncached_tokens: int
    work_tokens: int
    deadline_s: float
    tried: frozenset[str] = frozenset()
    state: AttemptState = AttemptState.WAITING
    moves: int = 0
    moved_from: str = ""
    own_kv_tokens: int = 0
    started: bool = False
    considered: Sequence[TtftEstimate] = ()
    shared_blocks: int = 0
    tpot_slo_s: float = 0.0
    began_at: float = 0.0
    began_load: float = 0.0

    def place_at(self, estimate: TtftEstimate, reason: ChoiceReason, now: float) -> None:
        """It waits elsewhere from now on, as estimated there."""
        self.moved_from = self.instance_id
        self.instance_id = estimate.instance_id
        self.reason = reason
        self.cached_tokens = estimate.cached_tokens
        self.uncached_tokens = estimate.uncached_tokens
        self.work_tokens = estimate.work_tokens
        self.estimated_ttft_s = estimate.total_s + (now - self.arrived_at)
        self.moves += 1
