"""One simulated run: a policy, a cluster, a workload at a rate, and the row of a study that it makes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from math import inf, isnan
from typing import Any

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.profile_capacity import truthful_capacity
from dualmap.loadtest.study.file import QUANTILES, Experiment, StudyRun
from dualmap.loadtest.study.tables import BOUND
from dualmap.loadtest.traces.describe import quantile
from dualmap.loadtest.traces.workload import Workload
from dualmap.loadtest.virtual.cells import VirtualCells
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun, RequestOutcome
from dualmap.loadtest.virtual.cluster_settings import Change, ClusterSettings, InstanceSpec
from dualmap.loadtest.virtual.disturbances import Disturbance, can_bound, load_disturbance
from dualmap.loadtest.virtual.models import load_model
from dualmap.loadtest.virtual.objectives import OBJECTIVES, Promises, token_goodput
from dualmap.loadtest.virtual.shared_cache_bound import make_bound
from dualmap.loadtest.virtual.simulated_workload import Setup, workload_of
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.fleet.scaling_config import RoleBounds, ScalingConfig
from dualmap.scheduler.role import Role


@dataclass(frozen=True, slots=True)
class Contender:
    """What is compared within a setup. overrides: settings of the scheduler."""

    policy: str
    seed: int = 0
    overrides: tuple[tuple[str, Any], ...] = ()
    experiment: Experiment = Experiment.CELLS


def simulate(
    setup: Setup,
    contender: Contender,
    qps: float,
    *,
    give_up_misses: float | None = None,
    wrap: Callable[[Any], Any] = lambda core: core,
) -> StudyRun:
    """give_up_misses: the run ends when more than this share of what is counted missed the objective; its row has then
    the attainment it could have reached at most. Raises ValueError for what cannot be run."""
    began_s = time.process_time()
    workload = workload_of(setup, qps, contender.seed)
    warmup = setup.warmup_requests
    counted = len(workload.requests) - warmup
    if counted <= 0:
        raise ValueError(f"{setup.trace}: {len(workload.requests)} requests, all of them warm-up ({warmup})")
    promises = Promises(setup.slo_s, setup.tpot_s, load_model(setup.model).profile)
    limits = [promises.limits(setup.objective, r.prompt_tokens, r.output_tokens) for r in workload.requests]
    missed: set[int] = set()
    allowed = inf if give_up_misses is None else give_up_misses * counted

    def give_up(index: int, ended: bool) -> bool:
        o, output_tokens = cluster.outcomes[index], workload.requests[index].output_tokens
        if index >= warmup and (
            (ended and not o.ok) or limits[index].missed(o.arrived_s, o.first_token_s, o.finished_s, output_tokens)
        ):
            missed.add(index)
        return len(missed) > allowed

    settings = cluster_settings(setup, contender, workload)
    make_core = make_bound if contender.policy == BOUND else Scheduler
    cluster_of = VirtualCells if settings.cells > 1 else VirtualCluster
    cluster = cluster_of(workload, settings, wrap=wrap, make_core=make_core)
    done = cluster.run(give_up=give_up)
    return StudyRun(
        trace=setup.title,
        policy=contender.policy,
        instances=setup.instances,
        seed=contender.seed,
        model=load_model(setup.model).name,
        disturbance=load_disturbance(setup.disturbance).name,
        slo_s=setup.slo_s,
        objective=setup.objective,
        tpot_s=setup.tpot_s,
        gateways=settings.gateways,
        prefill=setup.prefill,
        decode=setup.decode,
        step_tokens=setup.step_tokens,
        config=dict(contender.overrides),
        experiment=contender.experiment,
        setup=setup.in_words,
        qps=qps,
        requests=counted,
        attainment=(counted - len(missed)) / counted,
        complete=not done.stopped,
        cpu_s=round(time.process_time() - began_s, 2),
        instance_s=None if settings.scaling is None else done.instance_s,
        plans=done.plans,
        busiest_cell=_known(cluster.busiest) if isinstance(cluster, VirtualCells) else None,
        **(_kept(setup, promises, workload, done) if not done.stopped else {}),
        **_measured(workload, done, warmup),
    )


def cluster_settings(setup: Setup, contender: Contender, workload: Workload) -> ClusterSettings:
    """Raises ValueError."""
    disturbance = load_disturbance(setup.disturbance)
    bound = contender.policy == BOUND
    if bound and (setup.gateways > 1 or setup.scale or not can_bound(disturbance)):
        raise ValueError("the bound is for one gateway and instances that stay: leave it out here")
    gateways = max(setup.gateways, disturbance.gateways)
    if not 1 <= setup.cells <= setup.instances:
        raise ValueError(f"cells must be at least 1 and at most instances={setup.instances}, not {setup.cells}")
    if setup.cells > 1 and (bound or setup.scale or gateways > 1):
        raise ValueError("cells have one gateway each and do not scale; the bound has none: leave them out here")
    split = setup.prefill + setup.decode
    if split and (min(setup.prefill, setup.decode) < 1 or split > setup.instances):
        raise ValueError(f"each role needs an instance: not {setup.prefill} for prefill and {setup.decode} for decode")
    if split and (bound or setup.scale or setup.cells > 1):
        raise ValueError("instances with roles are in one cell and do not scale, and the bound has no roles")
    config = SchedulerConfig(
        **{
            "policy": SchedulerConfig().policy if bound else contender.policy,
            "ttft_slo_s": setup.slo_s,
            "shared_media": ("cpu",) if setup.cpu_cache_shared else (),
            **dict(contender.overrides),
        }
    )
    salt = f"s{contender.seed}-" if contender.seed else ""
    names = [f"{salt}i{number}" for number in range(setup.instances)]
    if setup.cpu_cache_shared and not setup.cpu_cache_tokens:
        raise ValueError("there is no CPU tier to share: --cpu-cache-tokens says how large each instance's is")
    profile = setup.profile
    fast = round(disturbance.fast_share * setup.instances)
    changes = _changes(disturbance, names, workload)
    scaled_roles = changes and (setup.change_roles or setup.most_prefill)
    if scaled_roles or (setup.scale and any(change.kind != "slow" for change in changes)):
        raise ValueError(f"{disturbance.name} is for instances that nothing scales: leave it out here")
    return ClusterSettings(
        config,
        [
            _instance(setup, name, profile, disturbance, fast=place < fast, role=role)
            for place, (name, role) in enumerate(_named(setup, names, salt))
        ],
        gateways=gateways,
        network_s=setup.network_s,
        digest_s=disturbance.digest_s,
        changes=changes,
        digest_delay_s=disturbance.digest_delay_s,
        shared_cache=bound or setup.cpu_cache_shared,
        kv_events=setup.kv_events,
        told_output="exact" if disturbance.tell_output or bound else "none",
        named_sessions=disturbance.name_sessions,
        scaling=_scaling(setup),
        at_first={Role.PREFILL: setup.prefill, Role.DECODE: setup.decode} if split else {},
        start_s=setup.start_s,
        cells=setup.cells,
    )


def _scaling(setup: Setup) -> ScalingConfig | None:
    if setup.change_roles:
        return ScalingConfig(prefill=RoleBounds(), decode=RoleBounds(), change_roles=True)
    if setup.most_prefill:
        bounds = RoleBounds(setup.prefill, setup.most_prefill), RoleBounds(setup.decode, setup.most_decode)
        return ScalingConfig(prefill=bounds[0], decode=bounds[1])
    return ScalingConfig(*setup.scale) if setup.scale else None


def _named(setup: Setup, names: Sequence[str], salt: str) -> list[tuple[str, Role]]:
    """All instances that there can be, by their ids."""
    most = {Role.PREFILL: setup.most_prefill, Role.DECODE: setup.most_decode}
    if setup.change_roles:
        most = dict.fromkeys(most, setup.prefill + setup.decode - 1)
    if any(most.values()):
        return [(f"{salt}{role}-{number}", role) for role, count in most.items() for number in range(count)]
    roles = [Role.PREFILL] * setup.prefill + [Role.DECODE] * setup.decode
    return list(zip_longest(names, roles, fillvalue=Role.BOTH))


def _instance(
    setup: Setup, name: str, profile: EngineProfile, disturbance: Disturbance, *, fast: bool, role: Role
) -> InstanceSpec:
    weight = 1.0
    if fast:
        weight = disturbance.fast_factor
        times = [field.name for field in fields(EngineProfile) if field.type is float]
        profile = replace(profile, **{name: getattr(profile, name) / weight for name in times})
    told = truthful_capacity(profile)
    if setup.kv_events == "tiers" or (setup.cpu_cache_tokens and setup.kv_events == "none"):
        told = replace(told, cache_tokens=profile.kv_tokens)
    told = replace(told, weight=weight, prefill_tokens_per_s=told.prefill_tokens_per_s / disturbance.told_s_per_token)
    return InstanceSpec(name, profile, told, role)


def _changes(disturbance: Disturbance, names: Sequence[str], workload: Workload) -> list[Change]:
    """Cold ones are the last of the instances, lost and slow ones the first. Raises ValueError."""
    cold = round(disturbance.cold_share * len(names))
    if max(disturbance.slow_count, disturbance.lost_count, cold) >= len(names):
        raise ValueError(f"{disturbance.name} needs more than {len(names)} instances")
    duration_s = workload.requests[-1].arrival_s
    changes = [Change(0.0, "slow", name, disturbance.slow_factor) for name in names[: disturbance.slow_count]]
    changes += [Change(disturbance.cold_at * duration_s, "join", name) for name in names[len(names) - cold :]]
    for name in names[: disturbance.lost_count]:
        changes.append(Change(disturbance.lost_at * duration_s, "lose", name))
        changes.append(Change(disturbance.back_at * duration_s, "join", name))
    return changes


def _kept(setup: Setup, promises: Promises, workload: Workload, done: ClusterRun) -> dict[str, Any]:
    """Shares of requests under each objective, and of tokens under the setup's own."""
    pairs = list(zip(workload.requests, done.outcomes, strict=True))[setup.warmup_requests :]
    within = {
        name: [
            promises.limits(name, r.prompt_tokens, r.output_tokens).kept(
                o.arrived_s, o.first_token_s, o.finished_s, r.output_tokens
            )
            for r, o in pairs
        ]
        for name in OBJECTIVES
    }
    tokens = [r.prompt_tokens + r.output_tokens for r, _ in pairs]
    return {
        "kept": {name: sum(own) / len(pairs) for name, own in within.items()},
        "token_goodput": token_goodput(zip(tokens, within[setup.objective], strict=True)),
    }


def _measured(workload: Workload, done: ClusterRun, warmup: int) -> dict[str, Any]:
    """Of requests after the warm-up; but loads, preemptions and moves are of the whole run."""
    pairs = list(zip(workload.requests[warmup:], done.outcomes[warmup:], strict=True))
    ttfts = sorted(o.first_token_s - o.arrived_s for _, o in pairs if _began(o))
    e2es = sorted(o.finished_s - o.arrived_s for _, o in pairs if o.ok)
    paces = sorted(
        (o.finished_s - o.first_token_s) / (r.output_tokens - 1) for r, o in pairs if o.ok and r.output_tokens > 1
    )
    begun_tokens = sum(r.prompt_tokens for r, o in pairs if _began(o))
    loads = done.computed_tokens.values()
    return {
        "ttft_p50_s": _known(quantile(ttfts, 0.5)),
        "ttft_p90_s": _known(quantile(ttfts, 0.9)),
        "ttft_p99_s": _known(quantile(ttfts, 0.99)),
        "ttft_quantiles": [round(quantile(ttfts, i / (QUANTILES - 1)), 4) for i in range(QUANTILES)] if ttfts else [],
        "e2e_p50_s": _known(quantile(e2es, 0.5)),
        "e2e_p90_s": _known(quantile(e2es, 0.9)),
        "itl_p50_s": _known(done.token_gaps.quantile(0.5)),
        "itl_p90_s": _known(done.token_gaps.quantile(0.9)),
        "itl_p99_s": _known(done.token_gaps.quantile(0.99)),
        "tpot_p50_s": _known(quantile(paces, 0.5)),
        "tpot_p90_s": _known(quantile(paces, 0.9)),
        "hit_rate": _known(_ratio(sum(o.cached_tokens for _, o in pairs if _began(o)), begun_tokens)),
        "load_skew": _known(_ratio(max(loads) * len(loads), sum(loads))),
        "preemptions": done.preemptions,
        "moves": done.moves,
        "failed": 0 if done.stopped else sum(not o.ok for _, o in pairs),
    }


def _began(outcome: RequestOutcome) -> bool:
    return not isnan(outcome.first_token_s)


def _known(value: float) -> float | None:
    return None if isnan(value) else round(value, 5)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
