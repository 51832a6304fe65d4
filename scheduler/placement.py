"""What every policy answers, so that the core runs DualMap and the policies it is compared with alike."""

from collections.abc import Sequence, Set
from dataclasses import KW_ONLY
from typing import Protocol

from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.record import record
from dualmap.scheduler.request import ChoiceReason, Request
from dualmap.scheduler.ttft_estimate import TtftEstimate


@record
class Placement:
    """candidates: instances that the policy named by the prefix, for rebalancing. considered: the estimates that were
    compared, for explanations. shared_blocks: leading blocks of `Request.blocks` that many share, as far as
    the prompt's key tells. finds_hot: with it a prefix, or a prompt, has become one that many share."""

    estimate: TtftEstimate
    candidates: tuple[str, ...]
    reason: ChoiceReason
    _: KW_ONLY
    considered: Sequence[TtftEstimate] = ()
    shared_blocks: int = 0
    finds_hot: bool = False


class Policy(Protocol):
    """Sees ready instances only: they are added when they join and removed when they drain or are lost.

    holds_requests: whether requests wait in the gateway until their instance can start them.
    """

    holds_requests: bool

    def add(self, view: InstanceView) -> None: ...

    def remove(self, view: InstanceView) -> None: ...

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        """Choose an instance outside `avoid`; None if there is none. `now`: seconds, as given to Scheduler.handle."""
        ...
