"""What the core knows of a request."""

from dataclasses import KW_ONLY
from enum import StrEnum

from dualmap.scheduler.record import record
from dualmap.scheduler.role import DECODE, Leg

BEFORE_ALL = -(2**31)  # a priority that no request has of itself


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
    model: the name of what shall answer, as instances know it; empty: whatever they serve.
    length_tokens: of prompt and answer together, as much as an instance has to take at least; 0: any will do.
    timeout_s: how long its client waits for the first token; None takes the configured time.
    only: ids of the instances that it may run on; empty: any.
    key_blocks: the chain that names the prompt on the rings, where that is another than `blocks`, which caches hold: a
    prompt known by its tokens is named as one known by its text alone. Empty: `blocks`.
    session: hash of the session that the client names; 0: it names none, or the request reuses nothing of the one
    before. A hint: it names a prompt that has no block at all, and decides between instances that are equal otherwise.
    stateful: it goes on from what one instance keeps. Where `only` names that one, it runs there, also while that
        drains; else each is asked in turn until one has it.
    goes_on_after: number of the attempt whose answer the client has part of, which this is the rest of; 0: the client
        has nothing. sent_tokens: how many tokens of the answer the client has; they are the last ones of the prompt.
    may_split: another instance than the one that answers may compute its prompt. leg: what of it is to be done.
    revision: of a decode leg: of which revision its instance has to be, to read what was computed; None: of any.
    """

    id: str
    blocks: tuple[int, ...]
    prompt_tokens: int
    _: KW_ONLY
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
    key_blocks: tuple[int, ...] = ()
    session: int = 0
    stateful: bool = False
    model: str = ""
    length_tokens: int = 0
    goes_on_after: int = 0
    sent_tokens: int = 0
    may_split: bool = False
    leg: Leg = Leg.WHOLE
    revision: str | None = None

    def leg_of(self, leg: Leg, revision: str | None = None) -> "Request":
        """One leg of it. A prefill leg makes one token, which nobody waits for and which is seen when it is made; a
        decode leg goes before all that waits, since memory is kept for it where its prompt is. `replace` would take
        twenty times as long."""
        decodes = leg is DECODE
        return Request(
            self.id,
            self.blocks,
            self.prompt_tokens,
            max_output_tokens=self.max_output_tokens if decodes else 1,
            ttft_slo_s=self.ttft_slo_s,
            priority=BEFORE_ALL if decodes else self.priority,
            tenant=self.tenant,
            streams=self.streams or not decodes,
            block_tokens=self.block_tokens,
            adapter=self.adapter,
            timeout_s=self.timeout_s,
            only=self.only,
            tpot_slo_s=self.tpot_slo_s if decodes else 0.0,
            key_blocks=self.key_blocks,
            session=self.session,
            stateful=self.stateful,
            model=self.model,
            length_tokens=self.length_tokens,
            goes_on_after=self.goes_on_after,
            sent_tokens=self.sent_tokens,
            may_split=self.may_split,
            leg=leg,
            revision=revision,
        )

    @property
    def chain(self) -> tuple[int, ...]:
        """The blocks by which the prompt is known on the rings."""
        return self.key_blocks or self.blocks

    @property
    def home(self) -> str | None:
        """The one instance that keeps what it goes on from; None where there is none, or it is not known."""
        return self.only[0] if self.stateful and len(self.only) == 1 else None

    @property
    def searches(self) -> bool:
        """Whether instances are asked in turn which of them keeps what it goes on from."""
        return self.stateful and len(self.only) != 1


class ChoiceReason(StrEnum):
    """Why an attempt is at its instance. Values are metric labels."""

    WARM = "warm"  # the candidate with the longer cached prefix, and it keeps the SLO
    SWITCHED = "switched"  # waiting for the warm one would cost more than computing the prefix again
    BALANCED = "balanced"  # none holds more of the prefix than another: the sooner one
    SESSION = "session"  # as good as the best one, and the session's last request ran there
    ONLY_ONE = "only_one"  # one candidate was left
    HOME = "home"  # it keeps what the request goes on from
    MOVED = "moved"  # taken off a hot instance by rebalancing
    TAKEN = "taken"  # taken by an instance that would have idled
    REDIRECTED = "redirected"  # the proxy that carries it went on to this one by itself
    POLICY = "policy"  # chosen by a comparison policy
