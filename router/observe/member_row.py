"""An instance as /admin/status and the live page both show it, as plain values."""

from collections.abc import Iterable, Mapping
from typing import Any

from dualmap.router.observe.instance_states import InstanceStates
from dualmap.router.observe.signal_ages import SignalAges
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.fleet.member import Member
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.tiers import TIERS


def member_row(member: Member, view: InstanceView | None, state: Mapping[str, Any]) -> dict[str, Any]:
    """view: what the core has of it, if anything. state: see InstanceStates. tpot_s: per output token if one more ran;
    0: not known yet."""
    row: dict[str, Any] = {
        "instance_id": member.instance_id,
        "incarnation": member.incarnation,
        "address": str(member.endpoint).removeprefix("http://"),
        "pool": member.pool,
        "role": member.role.value,
        "revision": member.revision,
        **state,
    }
    if view is None:
        return row
    return row | {
        "running": view.running_count,
        "others_running": view.others.running,
        "waiting": view.waiting_count,
        "waiting_tokens": view.waiting_tokens,
        "prefill_tokens": view.booked_prefill_tokens,
        "tpot_s": view.room.tpot_with(0),
    }


def status_rows(
    members: Iterable[Member],
    schedulers: Mapping[str, Scheduler],
    states: InstanceStates,
    signals: SignalAges,
    now: float,
) -> list[dict[str, Any]]:
    """What /admin/status shows. schedulers: by pool. load_shares: what loading a token from a tier costs, as a share of
    computing it; not there while nothing is known to be in one."""
    views = {i: view for scheduler in schedulers.values() for i, view in scheduler.instances.items()}
    shown, heard = states.describe(), signals.describe(now)
    return [_status_row(m, views.get(m.instance_id), shown[m.instance_id], heard) for m in members]


def _status_row(
    member: Member,
    view: InstanceView | None,
    state: Mapping[str, Any],
    signals: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    row = member_row(member, view, state)
    row |= {"pid": member.pid, "models": [str(card.get("id")) for card in member.model_cards]}
    if view is not None:
        row |= {
            "kv_tokens": view.booked_kv_tokens,
            "seconds_per_token": view.seconds_per_token,
            "adapters_loaded": view.adapters.loaded,
            "signals": signals.get(member.instance_id, {}),
        }
        if view.tiers.seen:
            row["load_shares"] = dict(zip(TIERS, view.tiers.shares, strict=True))
    return row
