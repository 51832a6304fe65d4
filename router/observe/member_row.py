"""An instance as /admin/status and the live page both show it, as plain values."""

from collections.abc import Mapping
from typing import Any

from dualmap.scheduler.fleet.member import Member
from dualmap.scheduler.instance.view import InstanceView


def member_row(member: Member, view: InstanceView | None) -> dict[str, Any]:
    """view: what the core has of it, if anything. tpot_s: per output token if one more ran; 0: not known yet."""
    row: dict[str, Any] = {
        "instance_id": member.instance_id,
        "incarnation": member.incarnation,
        "address": str(member.endpoint).removeprefix("http://"),
        "state": member.state.value,
        "pool": member.pool,
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


def status_row(member: Member, view: InstanceView | None, signals: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What /admin/status shows. signals: of all instances, by id."""
    row = member_row(member, view)
    row |= {"pid": member.pid, "models": [str(card.get("id")) for card in member.model_cards]}
    if view is not None:
        row |= {
            "kv_tokens": view.booked_kv_tokens,
            "seconds_per_token": view.seconds_per_token,
            "adapters_loaded": view.adapters.loaded,
            "signals": signals.get(member.instance_id, {}),
        }
    return row
