"""What several gateways have booked, together."""

from collections.abc import Iterable
from dataclasses import replace

from dualmap.scheduler.events import InstanceLoad


def summed(loads: Iterable[InstanceLoad]) -> tuple[InstanceLoad, ...]:
    """One for each instance, in the order they first come; a pace is the mean of those that are said."""
    total: dict[str, InstanceLoad] = {}
    paces: dict[str, list[float]] = {}
    for load in loads:
        known = total.get(load.instance_id)
        total[load.instance_id] = load if known is None else _sum(known, load)
        if load.seconds_per_token:
            paces.setdefault(load.instance_id, []).append(load.seconds_per_token)
    for instance_id, said in paces.items():
        total[instance_id] = replace(total[instance_id], seconds_per_token=sum(said) / len(said))
    return tuple(total.values())


def _sum(one: InstanceLoad, other: InstanceLoad) -> InstanceLoad:
    ages = [age for age in (one.head_age_s, other.head_age_s) if age is not None]
    return InstanceLoad(
        one.instance_id,
        one.running + other.running,
        one.prefilling_tokens + other.prefilling_tokens,
        waiting_tokens=one.waiting_tokens + other.waiting_tokens,
        kv_tokens=one.kv_tokens + other.kv_tokens,
        waiting=one.waiting + other.waiting,
        seconds_per_token=0.0,
        saved_tokens=one.saved_tokens + other.saved_tokens,
        head_age_s=max(ages, default=None),
    )
