"""What the live page shows, as plain values: GET /admin/live. Put together when somebody asks; no prompt, no key of a
client and no token is in it."""

from itertools import islice
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_hexdigest

from dualmap.router.observe.hot_prefixes import hot_prefixes
from dualmap.router.observe.member_row import member_row
from dualmap.router.observe.recent_decisions import Decision
from dualmap.router.observe.ring_picture import ring_picture
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.fleet.member import Member
from dualmap.scheduler.policies.dualmap import DualMap

if TYPE_CHECKING:
    from dualmap.router.gateway.gateway import Gateway

RECENT = 512  # requests over which prefixes are counted and work is averaged: a millisecond of a look


def live_view(gateway: "Gateway", pool_name: str, rings_known: str, now: float) -> dict[str, Any]:
    """Of one pool, as this gateway sees it. rings_known: the `rings_version` that the page has drawn; the rings, which
    are most of the answer, are left out where they are the same. Raises KeyError if there is no such pool."""
    scheduler = gateway.pools[pool_name].scheduler
    recent = list(islice((d for d in gateway.decisions.latest() if d.pool == pool_name), RECENT))
    view: dict[str, Any] = {
        "gateway_id": gateway.gateway_id,
        "gateways": [
            {"gateway_id": peer.gateway_id, "admin": peer.admin, "age_s": peer.age_s} for peer in gateway.peers
        ],
        "pools": list(gateway.pools),
        "pool": pool_name,
        "policy": scheduler.config.policy,
        "ttft_slo_s": scheduler.config.ttft_slo_s,
        "tpot_slo_s": scheduler.config.tpot_slo_s,
        "epoch": gateway.membership.epoch,
        "uptime_s": gateway.uptime_s,
        "in_flight": len(scheduler.attempts),
        "timeline": gateway.timelines[pool_name].describe(now),
        "recent_requests": len(recent),
        "moves": [_move(decision) for decision in gateway.decisions.moved() if decision.pool == pool_name],
        "moves_applied": scheduler.stats.moves_applied,
        "requests_taken": scheduler.stats.requests_taken,
    }
    mean_work_tokens = sum(d.attempt.work_tokens for d in recent) / len(recent) if recent else 0.0
    signals = gateway.signals.describe(now)
    view["instances"] = [
        _instance(member, scheduler, signals.get(member.instance_id, {}), mean_work_tokens, now)
        for member in gateway.membership.of_pool(pool_name).members
    ]
    if isinstance(scheduler.policy, DualMap):
        view["prefixes"] = hot_prefixes(scheduler.policy, recent)
        view["deepened"] = len(scheduler.policy.keys.depths)
        view["rings_version"] = _rings_version(scheduler)
        if view["rings_version"] != rings_known:
            view["rings"] = ring_picture(scheduler.policy.rings)
    return view


def _instance(
    member: Member, scheduler: Scheduler, signals: dict[str, dict[str, Any]], mean_work_tokens: float, now: float
) -> dict[str, Any]:
    """ttft_s: of a request that came now and had as much to compute as recent ones had."""
    view = scheduler.instances.get(member.instance_id)
    row = member_row(member, view)
    if view is None:
        return row
    return row | {
        "foreign": view.reported.foreign.requests,
        "work_s": (view.booked_prefill_tokens + view.waiting_tokens) * view.seconds_per_token,
        "ttft_s": view.backlog_s + mean_work_tokens * view.seconds_per_token,
        "tokens_per_s": 1 / view.seconds_per_token,
        "kv_booked": view.booked_kv_tokens / view.capacity.kv_tokens,
        "kv_used": signals.get("metrics", {}).get("kv_used"),
        "left_alone_s": max(0.0, view.suspect_until - now),
        "load_share": view.service.ramp,
        "signals": {name: {k: s.get(k) for k in ("age_s", "stale", "error")} for name, s in signals.items()},
    }


def _move(decision: Decision) -> dict[str, Any]:
    """at: when it was sent to where it had moved, in seconds since 1970."""
    dispatch, attempt = decision.dispatch, decision.attempt
    return {
        "at": decision.at,
        "request_id": decision.request_id,
        "from": attempt.moved_from,
        "to": dispatch.instance_id,
        "why": dispatch.reason.value,
        "moves": attempt.moves,
        "queued_s": dispatch.queued_s,
    }


def _rings_version(scheduler: Scheduler) -> str:
    """Rings are what their instances and weights make them, on every gateway."""
    views = sorted((v for v in scheduler.instances.values() if not v.draining), key=lambda v: v.instance_id)
    return xxh3_64_hexdigest("/".join(f"{v.instance_id}*{v.capacity.ring_weight}" for v in views).encode())
