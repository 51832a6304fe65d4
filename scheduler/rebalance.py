"""Snapshot -> moves of waiting requests off hot instances (arXiv 2602.06502, section 3.4).

A hot instance gives away the waiting requests that gain most, until its excess is gone: to their other candidate,
or, when that is hot too, to a third instance that is nearly idle. Requests whose prefill has started never move.
"""

from dataclasses import dataclass

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.pick import leaving_gain_s
from dualmap.scheduler.snapshot import InstanceSnapshot, Move, Snapshot, WaitingSnapshot


@dataclass(slots=True)
class _Load:
    """An instance's backlog as the plan goes on."""

    tokens: int
    seconds_per_token: float

    def seconds(self, more_tokens: int = 0) -> float:
        return (self.tokens + more_tokens) * self.seconds_per_token


def plan_rebalance(snapshot: Snapshot, config: SchedulerConfig) -> list[Move]:
    """At most config.max_moves moves, best gain first within each hot instance, the hottest instance first."""
    loads = {i.instance_id: _Load(i.backlog_tokens, i.seconds_per_token) for i in snapshot.instances}
    moves: list[Move] = []
    for hot in sorted(snapshot.instances, key=lambda i: (-i.backlog_tokens * i.seconds_per_token, i.instance_id)):
        queue = [w for w in snapshot.waiting if w.instance_id == hot.instance_id]
        price = snapshot.prices.get(hot.instance_id, snapshot.recompute_price)
        moves += _relieve(hot, queue, loads, price, config, config.max_moves - len(moves))
    return moves


def _relieve(
    hot: InstanceSnapshot,
    queue: list[WaitingSnapshot],
    loads: dict[str, _Load],
    price: float,
    config: SchedulerConfig,
    limit: int,
) -> list[Move]:
    moves: list[Move] = []
    left_tokens: dict[str, int] = {}  # request id -> tokens no longer ahead of it, since earlier ones moved
    while queue and len(moves) < limit:
        best: tuple[float, str, WaitingSnapshot] | None = None
        for waiting in queue:
            if loads[hot.instance_id].seconds() <= config.hot_slo_fraction * waiting.ttft_slo_s:
                continue
            uncached = waiting.work_tokens
            ahead = waiting.ahead_tokens - left_tokens.get(waiting.request_id, 0)
            here_s = (ahead + uncached[hot.instance_id]) * hot.seconds_per_token
            for target in _targets(waiting, loads, config):
                there = loads[target]
                extra_s = uncached[target] * there.seconds_per_token - waiting.shared_s.get(target, 0.0)
                extra_s -= uncached[hot.instance_id] * hot.seconds_per_token
                extra_s += waiting.shared_s.get(hot.instance_id, 0.0)
                gain_s = leaving_gain_s(here_s, there.seconds(uncached[target]), extra_s, price)
                if gain_s >= config.min_move_gain_s and (best is None or gain_s > best[0]):
                    best = (gain_s, target, waiting)
        if best is None:
            return moves
        gain_s, target, waiting = best
        moves.append(Move(waiting.request_id, hot.instance_id, target, gain_s=gain_s))
        freed = waiting.work_tokens[hot.instance_id]
        loads[hot.instance_id].tokens -= freed
        loads[target].tokens += waiting.work_tokens[target]
        position = queue.index(waiting)
        del queue[position]
        for behind in queue[position:]:
            left_tokens[behind.request_id] = left_tokens.get(behind.request_id, 0) + freed
    return moves


def _targets(waiting: WaitingSnapshot, loads: dict[str, _Load], config: SchedulerConfig) -> list[str]:
    """Where it may go: its other candidate unless that is hot, too; then any third instance that is nearly idle."""
    others = {i: loads[i].seconds() / waiting.ttft_slo_s for i in waiting.work_tokens if i != waiting.instance_id}
    own = [i for i, share in others.items() if i in waiting.candidates and share <= config.hot_slo_fraction]
    return own or [i for i, share in others.items() if share <= config.escape_slo_fraction]
