"""A prefill leg on its way."""

from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.role import PREFILL


def dispatch(request_id: str, attempt: int) -> Dispatch:
    return Dispatch(
        request_id,
        attempt,
        "p",
        reason=next(iter(ChoiceReason)),
        queued_s=0.0,
        estimated_ttft_s=0.0,
        cached_tokens=0,
        leg=PREFILL,
    )
