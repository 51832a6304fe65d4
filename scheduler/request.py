"""What the core knows of a request, and of each attempt to run it."""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Request:
    """One generation request.

    blocks: chained 64-bit hashes of the prompt's blocks, first to last; equal prefixes give equal leading hashes.
        Empty when the request has no prompt to reuse; it is then placed by load alone.
    prompt_tokens: length of the prompt in tokens, an estimate where the driver has no tokenizer.
    max_output_tokens: the most tokens the client asked for; 0 where it did not say.
    ttft_slo_s: time-to-first-token objective in seconds; None takes the configured one.
    priority: lower is served sooner, as in vLLM.
    tenant: whose request it is; empty where clients are not told apart.
    streams: whether the first token will be seen when it is made. If not, the end of prefill is assumed from the estimate.
    """

    id: str
    blocks: tuple[int, ...]
    prompt_tokens: int
    max_output_tokens: int = 0
    ttft_slo_s: float | None = None
    priority: int = 0
    tenant: str = ""
    streams: bool = True


class AttemptState(StrEnum):
    WAITING = "waiting"  # in the gateway, for its instance; can still move
    PREFILLING = "prefilling"  # dispatched, no token yet
    DECODING = "decoding"  # first token seen (or assumed)


class ChoiceReason(StrEnum):
    """Why an attempt is at its instance. Values are metric labels."""

    WARM = "warm"  # the candidate with the longer cached prefix, and it keeps the SLO
    SWITCHED = "switched"  # the warm candidate would have missed the SLO
    BALANCED = "balanced"  # both candidates hold the same prefix: the sooner one
    ONLY_ONE = "only_one"  # one candidate was left
    MOVED = "moved"  # taken off a hot instance by rebalancing
    POLICY = "policy"  # chosen by a comparison policy


@dataclass(slots=True)
class Attempt:
    """One try at running a request on one instance, and what it has booked there.

    booked_prefill_tokens: tokens still to be computed before its first token; 0 once that has been seen.
    booked_kv_tokens: tokens of KV cache reserved on the instance while it runs there.
    ahead_tokens: booked prefill tokens of the instance at dispatch, its own included; what its wait is measured against.
    """

    request: Request
    number: int
    instance_id: str
    candidates: tuple[str, ...]
    reason: ChoiceReason
    placed_at: float
    estimated_ttft_s: float
    cached_tokens: int
    state: AttemptState = AttemptState.WAITING
    dispatched_at: float = 0.0
    booked_prefill_tokens: int = 0
    booked_kv_tokens: int = 0
    ahead_tokens: int = 0
    started: bool = False  # the driver has seen output; unlike DECODING this is never assumed
    arrived_at: float = field(default=0.0)
