"""What a background planner is shown of the core, and the moves it answers with. Plain values: they travel between
processes."""

from dataclasses import KW_ONLY, field

from dualmap.scheduler.record import record


@record
class WaitingSnapshot:
    """A request that waits in the gateway for `instance_id` and could run elsewhere.

    ahead_tokens: prefill work to be done at its instance before it starts.
    work_tokens: instance id -> prefill work of its prompt there; its own instance and each alternative.
    shared_s: instance id -> seconds of that work for a prefix that many share; none where it is not named.
    """

    request_id: str
    instance_id: str
    ttft_slo_s: float
    _: KW_ONLY
    ahead_tokens: int
    work_tokens: dict[str, int]
    candidates: tuple[str, ...]
    shared_s: dict[str, float] = field(default_factory=dict)


@record
class InstanceSnapshot:
    """backlog_tokens: prefill work dispatched and not done, or waiting, of all gateways and of foreign requests
    (InstanceView.backlog_tokens). seconds_per_token: its pace."""

    instance_id: str
    backlog_tokens: int
    seconds_per_token: float


@record
class Snapshot:
    """version: counts changes of membership; a plan made for another version is dropped.

    instances: the hot ones, and every instance that a waiting request of theirs could move to.
    waiting: what waits for the hot instances, in queue order.
    recompute_price: what a second of recomputation must save, as the cluster's load is (pick.recompute_price).
    prices: the same by hot instance, where others serve other models: as the load is of those that serve its own.
    """

    version: int
    instances: tuple[InstanceSnapshot, ...]
    waiting: tuple[WaitingSnapshot, ...]
    _: KW_ONLY
    recompute_price: float
    prices: dict[str, float] = field(default_factory=dict)


@record
class Move:
    """Run a waiting request elsewhere. gain_s: what the plan expects it to save (pick.leaving_gain_s)."""

    request_id: str
    from_instance_id: str
    to_instance_id: str
    _: KW_ONLY
    gain_s: float
