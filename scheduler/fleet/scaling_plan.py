"""How many instances a fleet needs, from what it had to do lately, and which of them can leave.

The load is prefill work that was not cached, against what the instances were seen to compute; the backlog, running
requests, KV cache and missed objectives, for first tokens and for those after, can each ask for more. Work that is
coming is forecast for as long as an instance takes to start, no longer.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY
from math import ceil, sqrt

from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.fleet.scaling_sample import InstanceSample, ScalingSample
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.record import record

SURE = 3.0  # standard deviations of a count by which arrivals must grow to count as growing
SETTLING = 3.0  # at least this part of the up window lies between two starts
TELLING_ANSWERS = 20  # of fewer, a late one is more than the share that may be late
DOWN_SLOW = 0.5  # of the share of slow answers that asks for one more: with no more of them one may leave
DOWN_MARGIN = 0.9  # of the target load: with fewer instances less is found cached, and there is more to compute


@record
class ScalingPlan:
    """replicas: how many are wanted. start: so many more now. drain: these now. reason: for people."""

    replicas: int
    start: int
    drain: tuple[str, ...]
    _: KW_ONLY
    reason: str


@record
class _Need:
    replicas: int
    reason: str


def plan_scaling(history: Sequence[ScalingSample], config: ScalingConfig, start_s: float) -> ScalingPlan:
    """What to do at the time of the last sample. history: oldest first, about a sample a second, at least one. start_s:
    what an instance takes to start."""
    now = history[-1]
    here = [i for i in now.instances if i.state != "draining"]
    count = len(here)
    if count < config.min_replicas:
        missing = config.min_replicas - count
        return ScalingPlan(
            config.min_replicas, missing, (), reason=f"{instances(count)}, at least {config.min_replicas} wanted"
        )
    if count and not config.min_replicas and now.quiet_s >= config.scale_to_zero_after_s:
        why = f"nothing was asked for in the last {config.scale_to_zero_after_s:g} s"
        return ScalingPlan(0, 0, tuple(sorted(i.instance_id for i in here)), reason=why)
    need = _need_now(history, config, start_s)
    if not count and (why := _why_from_zero(history)):
        wanted = min(max(1, need.replicas), config.most)
        return ScalingPlan(wanted, min(wanted, config.max_step), (), reason=why)
    wanted = min(need.replicas, config.most)
    if wanted > count:
        return _grow(history, config, start_s, wanted, count, need.reason)
    return _shrink(history, config, count, here)


def instances(count: int) -> str:
    """1 instance, 2 instances."""
    return f"{count} instance{'' if count == 1 else 's'}"


def _why_from_zero(history: Sequence[ScalingSample]) -> str:
    """Why an instance is needed at once where there is none; empty where nobody asks for one."""
    now = history[-1]
    if now.held.requests:
        return f"requests that wait for an instance to come: {now.held.requests}"
    return "requests come, and there is no instance" if now.counted.arrived and len(history) > 1 else ""


def _grow(
    history: Sequence[ScalingSample], config: ScalingConfig, start_s: float, wanted: int, count: int, reason: str
) -> ScalingPlan:
    """Those that start are counted on: the next step need not wait longer than until they take load."""
    seen_s = _seen_s(history)
    if seen_s < config.up_window_s:
        return ScalingPlan(wanted, 0, (), reason=f"{reason}; hold: seen for {seen_s:.0f} of {config.up_window_s:g} s")
    since_s = _since_start_s(history)
    if since_s < min(config.up_window_s, max(start_s, config.up_window_s / SETTLING)):
        return ScalingPlan(wanted, 0, (), reason=f"{reason}; hold: the last start was {since_s:.0f} s ago")
    return ScalingPlan(wanted, min(wanted - count, config.max_step), (), reason=reason)


def _shrink(
    history: Sequence[ScalingSample], config: ScalingConfig, count: int, here: list[InstanceSample]
) -> ScalingPlan:
    def hold(why: str) -> ScalingPlan:
        return ScalingPlan(count, 0, (), reason=f"hold: {why}")

    ready = [i for i in here if i.state == "ready"]
    if count > config.most:
        why = f"{instances(count)}, at most {config.most} wanted"
        leaving = count - config.most
        return ScalingPlan(config.most, 0, _cheapest(ready, min(leaving, len(ready) - 1)), reason=why)
    if count == config.min_replicas:
        return hold(f"{instances(count)}, no fewer allowed")
    if count == 1:
        quiet_s, after_s = history[-1].quiet_s, config.scale_to_zero_after_s
        return hold(f"the last one goes when nothing was asked for in {after_s:g} s, and that is {quiet_s:.0f} s")
    if len(ready) < count:
        return hold("an instance is starting")
    seen_s = _seen_s(history)
    if seen_s < config.down_window_s:
        return hold(f"down window not full, {seen_s:.0f} of {config.down_window_s:g} s")
    quiet_s = _since_change_s(history)
    if quiet_s < config.cool_down_s:
        return hold(f"the last change was {quiet_s:.0f} s ago, cool-down {config.cool_down_s:g} s")
    need = _most_needed(history, config)
    wanted = max(1, need.replicas, config.min_replicas)
    if wanted >= count:
        return hold(f"{need.reason} in the last {config.down_window_s:g} s")
    return ScalingPlan(
        count - 1, 0, _cheapest(ready, 1), reason=f"{need.reason} in the last {config.down_window_s:g} s"
    )


def _cheapest(ready: list[InstanceSample], count: int) -> tuple[str, ...]:
    """Those whose leaving costs least cache."""
    in_order = sorted(ready, key=lambda i: (i.load.saved_tokens, i.load.running + i.load.waiting, i.instance_id))
    return tuple(i.instance_id for i in in_order[: max(0, count)])


# What is needed.


def _need_now(history: Sequence[ScalingSample], config: ScalingConfig, start_s: float) -> _Need:
    """Over the up window, with the trend of it for the time an instance takes to start."""
    window = _last(history, config.up_window_s)
    now = window[-1]
    pace = _pace(now)
    load, coming = (rate / pace for rate in _work_rates(window, start_s))
    ready = sum(i.state == "ready" for i in now.instances)
    backlog_tokens = sum(i.load.prefilling_tokens + i.load.waiting_tokens for i in now.instances)
    backlog_s = (backlog_tokens + now.held.prompt_tokens) / pace
    left_s = max(0.0, backlog_s - max(0.0, ready - load) * start_s)  # when one that is started now is ready
    needs = [
        _need(coming, config.target_load, f"prefill load {load:.2f} instances, {coming:.2f} coming"),
        _need(
            load + left_s / config.clear_backlog_s,
            1.0,
            f"prefill load {load:.2f} instances and a backlog of {backlog_s:.1f} instance-seconds",
        ),
        *_pressures(now, config),
    ]
    kept, missed = sum(s.counted.slo_kept for s in window), sum(s.counted.slo_missed for s in window)
    late = kept < config.attainment * (kept + missed) and backlog_s > ready
    if late and _oldest_s(now) >= config.up_window_s:  # else they waited for the first one
        needs.append(_Need(ready + 1, f"{kept / (kept + missed):.0%} in time over {config.up_window_s:g} s"))
    at_pace = _few_at_pace(window, config.attainment)
    if at_pace is not None and _newest_s(now) >= config.up_window_s:  # else they may be from before the last one came
        needs.append(_Need(ready + 1, f"{at_pace:.0%} of answers at their pace over {config.up_window_s:g} s"))
    most = max(needs, key=lambda need: need.replicas)
    return _Need(most.replicas, f"{most.reason}: {most.replicas} wanted")


def _few_at_pace(window: Sequence[ScalingSample], wanted: float) -> float | None:
    """Share of answers at the pace of their objective; None where that is enough, or too few ended to tell."""
    kept, missed = sum(s.counted.tpot_kept for s in window), sum(s.counted.tpot_missed for s in window)
    if kept + missed < TELLING_ANSWERS or kept >= wanted * (kept + missed):
        return None
    return kept / (kept + missed)


def _work_rates(window: Sequence[ScalingSample], ahead_s: float) -> tuple[float, float]:
    """Prefill tokens a second now, and in so many seconds if arrivals go on growing as they did in the window, but no
    further ahead than the window is long. Where its halves differ by no more than chance, both are the mean of it."""
    rate = _work_rate(window)
    seconds = window[-1].at_s - window[0].at_s
    middle = sum(sample.at_s <= window[0].at_s + seconds / 2 for sample in window)
    before, after = (sum(sample.counted.arrived for sample in half) for half in (window[1:middle], window[middle:]))
    more = after - before - SURE * sqrt(before + after)  # than chance explains
    if more <= 0:
        return rate, rate
    slope = rate * 2 * more / (before + after) / (seconds / 2)
    late = _work_rate(window[middle - 1 :])  # at three quarters of the window
    return late, late + slope * (seconds / 4 + min(ahead_s, seconds))


def _most_needed(history: Sequence[ScalingSample], config: ScalingConfig) -> _Need:
    """The most that either half of the down window, or the up window, needed, with a margin."""
    window = _last(history, config.down_window_s)
    middle = len(window) // 2
    pace = _pace(window[-1])
    parts = (window[: middle + 1], window[middle:], _last(history, config.up_window_s))
    load = max(_work_rate(part) for part in parts) / pace
    kept, missed = sum(s.counted.slo_kept for s in window), sum(s.counted.slo_missed for s in window)
    if kept < config.attainment * (kept + missed):
        return _Need(len(history[-1].instances), f"{kept / (kept + missed):.0%} in time")
    for part in (window, parts[-1]):
        if (at_pace := _few_at_pace(part, 1 - DOWN_SLOW * (1 - config.attainment))) is not None:
            return _Need(len(history[-1].instances), f"{at_pace:.0%} of answers at their pace")
    needs = [_need(load, config.target_load * DOWN_MARGIN, f"prefill load up to {load:.2f} instances")]
    needs += [need for sample in parts[-1] for need in _pressures(sample, config)]
    needs += [_pace_need(part, config) for part in (window, parts[-1])]
    most = max(needs, key=lambda need: need.replicas)
    return _Need(most.replicas, f"{most.reason}: {most.replicas} wanted")


def _pace_need(window: Sequence[ScalingSample], config: ScalingConfig) -> _Need:
    """With fewer instances more answers run on each, and a token takes longer, in proportion at the most. Nothing where
    none has ended, or that is not counted."""
    ended = sum(s.counted.tpot_kept + s.counted.tpot_missed for s in window)
    used = sum(s.counted.tpot_used for s in window) / ended if ended else 0.0
    ready = sum(i.state == "ready" for i in window[-1].instances)
    return _need(used * ready, config.decode_load, f"a token takes {used:.0%} of its objective at {ready} instances")


def _need(instances: float, target_load: float, reason: str) -> _Need:
    return _Need(ceil(instances / target_load - 1e-9), reason)


def _pressures(sample: ScalingSample, config: ScalingConfig) -> list[_Need]:
    """What decoding and the KV cache ask for."""
    ready = [i for i in sample.instances if i.state == "ready"]
    if not ready:
        return []
    running = sum(i.load.running for i in sample.instances)
    places = sum(i.capacity.max_running for i in ready) / len(ready)
    kv_tokens = sum(i.load.kv_tokens for i in sample.instances)
    pool_tokens = sum(i.capacity.kv_tokens for i in ready) / len(ready)
    return [
        _need(running / places, config.decode_load, f"{running} requests run, {places:.0f} at an instance"),
        _need(kv_tokens / pool_tokens, config.kv_load, f"KV cache for {kv_tokens / pool_tokens:.2f} instances booked"),
    ]


def _pace(sample: ScalingSample) -> float:
    """Prefill tokens a second of an instance, the mean of those that are ready; without one, of all."""
    measured = [i for i in sample.instances if i.state == "ready"] or sample.instances
    if not measured:
        return InstanceCapacity().prefill_tokens_per_s
    told = ((i.load.seconds_per_token, i.capacity.prefill_tokens_per_s) for i in measured)
    return sum(1.0 / learned_s if learned_s else configured for learned_s, configured in told) / len(measured)


# The history.


def _last(history: Sequence[ScalingSample], seconds: float) -> Sequence[ScalingSample]:
    """The samples of the last so many seconds, one at least."""
    since = history[-1].at_s - seconds
    first = len(history) - 1
    while first and history[first - 1].at_s >= since:
        first -= 1
    return history[first:]


def _work_rate(window: Sequence[ScalingSample]) -> float:
    """Prefill tokens a second. The counters of the first sample are of the time before it."""
    seconds = window[-1].at_s - window[0].at_s
    return sum(sample.counted.arrived_work_tokens for sample in window[1:]) / seconds if seconds else 0.0


def _seen_s(history: Sequence[ScalingSample]) -> float:
    return history[-1].at_s - history[0].at_s


def _ids(sample: ScalingSample) -> frozenset[str]:
    return frozenset(i.instance_id for i in sample.instances if i.state != "draining")


def _newest_s(sample: ScalingSample) -> float:
    """Since the last of those that are ready became so; 0 without any."""
    return min((i.since_s for i in sample.instances if i.state == "ready"), default=0.0)


def _oldest_s(sample: ScalingSample) -> float:
    """Since the first of those that are ready became so; 0 without any."""
    return max((i.since_s for i in sample.instances if i.state == "ready"), default=0.0)


def _since_change_s(history: Sequence[ScalingSample]) -> float:
    """Since an instance came, became ready, or began to leave."""
    now = history[-1]
    quiet = [i.since_s for i in now.instances if i.state == "ready"]
    for sample in reversed(history):
        if _ids(sample) != _ids(now):
            return min([now.at_s - sample.at_s, *quiet])
    return min([_seen_s(history), *quiet])


def _since_start_s(history: Sequence[ScalingSample]) -> float:
    """Since an instance was started; the whole history if none was."""
    now = history[-1]
    for later, sample in zip(reversed(history), list(reversed(history))[1:], strict=False):
        if _ids(later) - _ids(sample):
            return now.at_s - later.at_s
    return _seen_s(history)
