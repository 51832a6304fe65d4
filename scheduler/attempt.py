"""One try at running a request on one instance: its states, the table of its transitions, and all that writes it.

docs/architecture/core.md shows the table; tests/docs/core_page.py makes that page from this file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from dualmap.scheduler.errors import ContractError
from dualmap.scheduler.lease import Lease
from dualmap.scheduler.request import ChoiceReason, Request
from dualmap.scheduler.role import PREFILL
from dualmap.scheduler.tiers import Loads
from dualmap.scheduler.ttft_estimate import TtftEstimate

LEADING_BLOCKS = 64  # of a prompt that are kept of an attempt that is over, each some 40 bytes: they tell its prefix


class AttemptState(StrEnum):
    WAITING = "waiting"  # in the gateway, for its instance; it can still move
    PREFILLING = "prefilling"  # dispatched, no token yet
    UNSEEN = "unseen"  # its answer is not streamed: its prefill is taken to be done, nothing was seen of it
    DECODING = "decoding"  # output was seen
    OVER = "over"  # nothing is booked for it any more


class Step(StrEnum):
    MOVED = "moved"  # to another instance, to wait there
    DISPATCHED = "dispatched"  # the driver sends it to its instance
    ASSUMED = "assumed"  # its prefill should have ended by now
    SEEN = "seen"  # the driver saw the first output
    ENDED = "ended"  # its request is over, or goes on in another attempt


TRANSITIONS = {
    (AttemptState.WAITING, Step.MOVED): AttemptState.WAITING,
    (AttemptState.WAITING, Step.DISPATCHED): AttemptState.PREFILLING,
    (AttemptState.WAITING, Step.ENDED): AttemptState.OVER,
    (AttemptState.PREFILLING, Step.ASSUMED): AttemptState.UNSEEN,
    (AttemptState.PREFILLING, Step.SEEN): AttemptState.DECODING,
    (AttemptState.PREFILLING, Step.ENDED): AttemptState.OVER,
    (AttemptState.UNSEEN, Step.SEEN): AttemptState.DECODING,
    (AttemptState.UNSEEN, Step.ENDED): AttemptState.OVER,
    (AttemptState.DECODING, Step.ENDED): AttemptState.OVER,
}


# The same, found without a pair being made for it.
_NEXT = {state: {step: to for (at, step), to in TRANSITIONS.items() if at is state} for state in AttemptState}


class Ending(StrEnum):
    """Why an attempt is over."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "the client left"
    TIMED_OUT = "timed out"
    SHED = "it made room for another request"
    LOST = "its instance is gone"
    SILENT = "its instance has fallen silent"
    LEFT = "its instance drains, is left alone or serves its model no more: it is placed again"
    REDIRECTED = "the proxy went on to another instance"
    PREFILLED = "its prompt is computed, and another attempt answers"


@dataclass(slots=True, kw_only=True)
class Attempt:
    """Its instance's books hold what it has reserved there. Only its own methods write it.

    number: counts the request's dispatches, from 1; a move of a waiting request keeps it.
    uncached_tokens: prompt tokens to compute. work_tokens: the work that is (Service.work_tokens), booked as waiting,
    then as prefilling, until the first token.
    deadline_s: when its first token is due.
    own_kv_tokens: KV cache reserved on the instance from dispatch to the end, besides that of its blocks.
    moved_from: where it waited before its last move; empty where it never moved.
    tried: instances on which earlier attempts of the request failed.
    considered: the estimates by which it was placed. shared_blocks: leading blocks of its prompt that many share.
    tpot_slo_s: its objective; 0: it has none.
    brought_from: see first_block_brought; None: from where its prompt was not cached.
    held_s: for how long no instance could run the request before it was placed.
    began_at, began_load: when output was first seen, None until then, and how much its instance had to read for each
    token at that moment (Room.decode_load).
    whole: what the client asks, of which `request` is one leg; None: it is all of it. lease: of a decode leg: where its
    prompt is. legs_done: legs of the request that are no tries at it: prefill legs that were completed, and one that
    was refused.
    loads: what of its prompt is cached in tiers behind the pool; None: nothing. computed_before: work that its instance
    had computed when it was dispatched (PrefillSpeed.computed_tokens), where it loads.
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
    considered: Sequence[TtftEstimate] = ()
    shared_blocks: int = 0
    tpot_slo_s: float = 0.0
    held_s: float = 0.0
    state: AttemptState = AttemptState.WAITING
    moves: int = 0
    moved_from: str = ""
    own_kv_tokens: int = 0
    dispatched_at: float = 0.0
    brought_from: int | None = None
    began_at: float | None = None
    began_load: float = 0.0
    ending: Ending | None = None
    ended_at: float = 0.0
    whole: Request | None = None
    lease: Lease | None = None
    legs_done: int = 0
    loads: Loads | None = None
    computed_before: int = 0

    @property
    def asked(self) -> Request:
        """What the client asks."""
        return self.request if self.whole is None else self.whole

    @property
    def started(self) -> bool:
        """Whether output was seen, also once it is over; unlike the end of its prefill this is never assumed."""
        return self.began_at is not None

    @property
    def pool_tokens(self) -> int:
        """Of its prompt, what its instance has in its KV pool."""
        return self.cached_tokens if self.loads is None else self.loads.pool_tokens

    def place_at(self, estimate: TtftEstimate, reason: ChoiceReason, now: float) -> None:
        """It waits elsewhere from now on, as estimated there."""
        self._step(Step.MOVED)
        self.moved_from = self.instance_id
        self.instance_id = estimate.instance_id
        self.reason = reason
        self.cached_tokens = estimate.cached_tokens
        self.uncached_tokens = estimate.uncached_tokens
        self.work_tokens = estimate.work_tokens
        self.estimated_ttft_s = estimate.total_s + (now - self.arrived_at)
        self.loads = estimate.loads
        self.moves += 1

    def shares(self, shared_blocks: int) -> None:
        """So many leading blocks of its prompt are known to be shared by many."""
        self.shared_blocks = shared_blocks

    def dispatch(
        self, cached_tokens: int, work_tokens: int, own_kv_tokens: int, now: float, loads: Loads | None = None
    ) -> None:
        """It runs from now on, with what is cached at this moment."""
        self._step(Step.DISPATCHED)
        self.cached_tokens = cached_tokens
        self.loads = loads
        self.uncached_tokens = self.request.prompt_tokens - cached_tokens
        self.work_tokens = work_tokens
        self.own_kv_tokens = own_kv_tokens
        self.dispatched_at = now

    def loads_after(self, computed_tokens: int) -> None:
        """It loads from now on. computed_tokens: see computed_before."""
        self.computed_before = computed_tokens

    def first_block_brought(self, block_tokens: int) -> int:
        """From which of its prompt's blocks on its instance has them because it runs there."""
        return -(-self.pool_tokens // block_tokens) if self.brought_from is None else self.brought_from

    def bring(self, first_block: int) -> None:
        """Another that was to bring them does not run."""
        self.brought_from = first_block

    def assume_prefilled(self) -> None:
        self._step(Step.ASSUMED)

    def begin(self, load: float, now: float) -> None:
        """Output was seen. load: see began_load."""
        self._step(Step.SEEN)
        self.began_at = now
        self.began_load = load

    def end(self, ending: Ending, now: float) -> None:
        self._step(Step.ENDED)
        self.ending = ending
        self.ended_at = now

    def shorten(self) -> None:
        """It is over, and is only told of: keep no more of its prompt than tells its prefix."""
        request = self.request
        self.request = replace(
            request, blocks=request.blocks[:LEADING_BLOCKS], key_blocks=request.key_blocks[:LEADING_BLOCKS]
        )
        self.whole = None

    def followed(self) -> "Attempt":
        """The request's next attempt, as if it waited where this one ran: the proxy that carries it chose another
        instance by itself."""
        return replace(
            self,
            number=self.number + 1,
            tried=self.tried | {self.instance_id},
            state=AttemptState.WAITING,
            brought_from=None,
            ending=None,
        )

    def _step(self, step: Step) -> None:
        try:
            self.state = _NEXT[self.state][step]
        except KeyError:
            what = f"attempt {self.number} of request {self.request.id!r} is {self.state} and cannot be {step}"
            raise ContractError("\n  ".join((what, *self.story()))) from None

    def story(self) -> list[str]:
        """How it came to its state, a line for each step that is known. Seconds count from the request's arrival."""
        request = self.request
        lines = [
            f"attempt {self.number} for {self.instance_id} ({self.reason}) of {', '.join(self.candidates)}: "
            f"{self.cached_tokens:,} of {request.prompt_tokens:,} tokens cached{_in_tiers(self.loads)}, "
            f"first token expected after {self.estimated_ttft_s:.3f} s, "
            f"due after {self.deadline_s - self.arrived_at:g} s"
        ]
        if request.goes_on_after:
            lines.append(f"goes on with an answer of which its client has {request.sent_tokens} tokens")
        if self.held_s:
            lines.append(f"held for {self.held_s:.3f} s, until there was an instance that could run it")
        if request.leg is PREFILL:
            lines.append("computes the prompt for another instance")
        if self.lease is not None:
            lines.append(f"fetches the prompt from {self.lease.instance_id}, computed in {self.lease.ran_s:.3f} s")
        if self.tried:
            lines.append(f"had failed on {', '.join(sorted(self.tried))}")
        if self.moves:
            lines.append(f"moved {self.moves} times, last from {self.moved_from}")
        if self.dispatched_at:
            lines.append(f"dispatched after {self.dispatched_at - self.arrived_at:.3f} s")
        if self.began_at is not None:
            lines.append(f"output seen after {self.began_at - self.arrived_at:.3f} s")
        if self.ending is None:
            lines.append(self.state)
        else:
            lines.append(f"over after {self.ended_at - self.arrived_at:.3f} s: {self.ending}")
        return lines


def _in_tiers(loads: Loads | None) -> str:
    return "" if loads is None else "".join(f", {tokens:,} of them in {tier}" for tier, tokens in loads.tokens)
