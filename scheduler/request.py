"""What the core knows of a request, and of each attempt to run it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dualmap.scheduler.record import record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dualmap.scheduler.ttft import TtftEstimate


@record
class Request:
    """One generation request.

    blocks: chained 64-bit hashes of the prompt's blocks, first to last; equal prefixes give equal leading hashes.
        Empty when the request has no prompt to reuse; it is then placed by load alone.
    prompt_tokens: length of the prompt in tokens, an estimate where the driver has no tokenizer.
    max_output_tokens: the most tokens the client asked for; 0 where it did not say.
    ttft_slo_s: time-to-first-token objective in seconds; None takes the configured one.
    tpot_slo_s: objective for the mean time per output token after the first, in seconds; None takes the configured one.
    priority: lower is served sooner, as in vLLM.
    tenant: whose request it is; empty where clients are not told apart.
    block_tokens: tokens that a block stands for, where the driver knows better than the configuration; 0: it does not.
    streams: whether the first token will be seen when it is made. If not, the end of prefill is assumed from the
    estimate.
    adapter: the LoRA adapter it runs with; empty for the base model. The blocks' hashes tell adapters apart, too.
    timeout_s: how long its client waits for the first token; None takes the configured time.
    only: ids of the instances that it may run on; empty: any.
    """

    id: str
    blocks: tuple[int, ...]
    prompt_tokens: int
    max_output_tokens: int = 0
    ttft_slo_s: float | None = None
    priority: int = 0
    tenant: str = ""
    streams: bool = True
    block_tokens: int = 0
    adapter: str = ""
    timeout_s: float | None = None
    only: tuple[str, ...] = ()
    tpot_slo_s: float | None = None


class AttemptState(StrEnum):
    WAITING = "waiting"  # in the gateway, for its instance; can still move
    PREFILLING = "prefilling"  # dispatched, no token yet
    DECODING = "decoding"  # first token seen (or assumed)


class ChoiceReason(StrEnum):
    """Why an attempt is at its instance. Values are metric labels."""

    WARM = "warm"  # the candidate with the longer cached prefix, and it keeps the SLO
    SWITCHED = "switched"  # waiting for the warm one would cost more than computing the prefix again
    BALANCED = "balanced"  # none holds more of the prefix than another: the sooner one
    ONLY_ONE = "only_one"  # one candidate was left
    MOVED = "moved"  # taken off a hot instance by rebalancing
    TAKEN = "taken"  # taken by an instance that would have idled
    REDIRECTED = "redirected"  # the proxy that carries it went on to this one by itself
    POLICY = "policy"  # chosen by a comparison policy


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
