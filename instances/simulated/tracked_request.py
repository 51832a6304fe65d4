"""A request inside the simulated engine: where it stands, in tokens and blocks."""

from enum import StrEnum

from dualmap.instances.simulated.block_pool import Block
from dualmap.instances.simulated.engine_types import EngineRequest, FinishedRequest, FirstToken


class Phase(StrEnum):
    WAITING = "waiting"
    LOADING = "loading"  # its prompt is read from another instance, into blocks that it holds
    READING = "reading"  # the same of part of its prompt, from the tier behind the pool
    PREFILL = "prefill"  # running, with prompt tokens still to compute
    DECODE = "decode"
    GONE = "gone"  # finished or aborted


class TrackedRequest:
    """While it decodes, `computed` and `generated` are those of when `since_step` steps were done: both grow by one
    a step from there. Otherwise they are exact."""

    __slots__ = (
        "arrived_s",
        "cached",
        "computed",
        "first_token_s",
        "generated",
        "last_token_s",
        "order",
        "phase",
        "request",
        "since_step",
        "started_s",
        "stored",
        "table",
    )

    def __init__(self, request: EngineRequest, number: int, now: float) -> None:
        self.request = request
        self.order = (request.priority, number)  # total: numbers are unique
        self.phase = Phase.WAITING
        self.table: list[Block] = []
        self.stored = 0  # leading blocks of the table that the cache knows
        self.computed = 0  # tokens whose KV is in the table
        self.generated = 0  # tokens produced
        self.since_step = 0
        self.cached = 0
        self.arrived_s = now
        self.started_s: float | None = None
        self.first_token_s = 0.0
        self.last_token_s = 0.0

    @property
    def end_step(self) -> int:
        """Steps after which a decoding request is done."""
        return self.since_step + self.request.output_tokens - self.generated

    def full_step(self, block_size: int) -> int:
        """Steps after which a decoding request has filled its table."""
        return self.since_step + len(self.table) * block_size - self.computed

    def computed_at(self, step: int) -> int:
        """Computed tokens of a decoding request after so many steps."""
        return self.computed + step - self.since_step

    def settle(self, step: int) -> None:
        """Make the numbers exact as of so many steps: it stops decoding."""
        self.computed += step - self.since_step
        self.generated += step - self.since_step
        self.since_step = step

    def first_token(self, now: float) -> FirstToken:
        self.first_token_s = now
        return FirstToken(self.request.request_id, self.request.prompt_tokens, self.cached, now - self.arrived_s)

    def finished(self, now: float) -> FinishedRequest:
        request = self.request
        assert self.started_s is not None
        return FinishedRequest(
            request.request_id,
            request.prompt_tokens,
            self.cached,
            request.output_tokens,
            self.arrived_s,
            self.started_s,
            self.first_token_s,
            now,
            len(self.table) if request.lends else 0,
        )


def order_of(tracked: TrackedRequest) -> tuple[int, int]:
    return tracked.order
