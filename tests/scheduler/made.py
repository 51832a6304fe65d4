"""Attempts and instances as the core would have made them, for tests of what is below the core."""

from dualmap.scheduler import InstanceCapacity, Request, SchedulerConfig
from dualmap.scheduler.attempt import Attempt
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.instance.pace import FleetPace
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.offers import Offers
from dualmap.scheduler.request import ChoiceReason


def attempt_of(
    request: Request, arrived_at: float = 0.0, work_tokens: int | None = None, slo_s: float = 5.0, number: int = 1
) -> Attempt:
    """Placed on `a` and waiting there. work_tokens: None stands for the whole prompt."""
    work = request.prompt_tokens if work_tokens is None else work_tokens
    due = arrived_at + slo_s
    return Attempt(
        request=request,
        number=number,
        arrived_at=arrived_at,
        instance_id="a",
        candidates=("a",),
        reason=ChoiceReason.BALANCED,
        estimated_ttft_s=0.0,
        cached_tokens=0,
        uncached_tokens=work,
        work_tokens=work,
        deadline_s=due,
    )


def view_of(
    instance_id: str = "a",
    holders: Holders | None = None,
    loads: LoadOrder[InstanceView] | None = None,
    config: SchedulerConfig | None = None,
    **capacity: float,
) -> InstanceView:
    """A token is a millisecond."""
    return InstanceView(
        instance_id,
        1,
        InstanceCapacity(**({"prefill_tokens_per_s": 1000.0, "kv_tokens": 1_000_000, "max_running": 8} | capacity)),
        config=config or SchedulerConfig(),
        holders=holders if holders is not None else Holders(),
        loads=loads if loads is not None else LoadOrder(),
        pace=FleetPace(),
        offers=Offers(),
    )
