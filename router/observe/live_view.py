"""What the live page shows, as plain values: GET /admin/live. Put together when somebody asks; no prompt, no key of a
client and no token is in it."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from xxhash import xxh3_64_hexdigest

from dualmap.router.observe.hot_prefixes import hot_prefixes
from dualmap.router.observe.member_row import member_row
from dualmap.router.observe.pool_timeline import PoolTimeline
from dualmap.router.observe.recent_decisions import Decision, RecentDecisions
from dualmap.router.observe.ring_picture import ring_picture
from dualmap.router.observe.signal_ages import SignalAges
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.fleet.member import Member
from dualmap.scheduler.policies.dualmap import DualMap

RECENT = 512  # requests over which prefixes are counted and work is averaged: a millisecond of a look


def live_view(
    pool_name: str,
    scheduler: Scheduler,
    members: Iterable[Member],
    *,
    timeline: PoolTimeline,
    decisions: RecentDecisions,
    signals: SignalAges,
    states: Mapping[str, dict[str, Any]],
    rings_known: str,
    now: float,
) -> dict[str, Any]:
    """Of one pool, as its gateway sees it. decisions, signals, states: of all pools. rings_known: the
    `rings_version` that the page has drawn; the rings, which are most of the answer, are left out where they are the
    same."""
    recent = list(islice((d for d in decisions.latest() if d.pool == pool_name), RECENT))
    view: dict[str, Any] = {
        "pool": pool_name,
        "policy": scheduler.config.policy,
        "ttft_slo_s": scheduler.config.ttft_slo_s,
        "tpot_slo_s": scheduler.config.tpot_slo_s,
        "in_flight": len(scheduler.attempts) + len(scheduler.held),
        "held": len(scheduler.held),
        "timeline": timeline.describe(now),
        "recent_requests": len(recent),
        "moves": [_move(decision) for decision in decisions.moved() if decision.pool == pool_name],
        "moves_applied": scheduler.stats.moves_applied,
        "requests_taken": scheduler.stats.requests_taken,
    }
    mean_work_tokens = sum(d.attempt.work_tokens for d in recent) / len(recent) if recent else 0.0
    signs = signals.describe(now)
    view["instances"] = [
        _instance(
            member, scheduler, states[member.instance_id], signs.get(member.instance_id, {}), mean_work_tokens, now
        )
        for member in members
    ]
    if isinstance(scheduler.policy, DualMap):
        view["prefixes"] = hot_prefixes(scheduler.policy, recent)
        view["deepened"] = scheduler.policy.deepened
        view["rings_version"] = _rings_version(scheduler)
        if view["rings_version"] != rings_known:
            view["rings"] = ring_picture(scheduler.policy.rings)
    return view


def _instance(
    member: Member,
    scheduler: Scheduler,
    state: dict[str, Any],
    signals: dict[str, dict[str, Any]],
    mean_work_tokens: float,
    now: float,
) -> dict[str, Any]:
    """ttft_s: of a request that came now and had as much to compute as recent ones had."""
    view = scheduler.instances.get(member.instance_id)
    row = member_row(member, view, state)
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
