"""The cells of the policy study: which traces, models, clusters and disturbances, with which policies and seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dualmap.loadtest.study.capacity_search import nearest_place, rate_at
from dualmap.loadtest.study.file import Experiment
from dualmap.loadtest.study.simulation import Contender
from dualmap.loadtest.study.simulation_jobs import CapacityJob, Job, RateJob
from dualmap.loadtest.study.tables import BOUND, DUALMAP, MAIN_TRACE, TARGETS
from dualmap.loadtest.traces.hot_prefix import is_synthetic
from dualmap.loadtest.virtual.disturbances import DISTURBANCES, can_bound
from dualmap.loadtest.virtual.objectives import ITL_E2E, TTFT, TTFT_TPOT
from dualmap.loadtest.virtual.simulated_workload import Setup
from dualmap.scheduler.config import POLICY_NAMES, SchedulerConfig

FAR_BEHIND = ("round_robin", "least_loaded", "power_of_two", "cache_affinity", "chwbl")  # on the first two cells
BEHIND = ("min_ttft", "dynamo_kv", "lmetric")  # never the best on the cells of other traces
BEHIND_ON_HOT = tuple(
    p for p in FAR_BEHIND if p not in ("round_robin", "least_loaded")
)  # these two spread a hot prefix

_WORKLOADS: dict[str, dict[str, Any]] = {
    MAIN_TRACE: {"trace": "mooncake_conversation.jsonl"},
    # Agents' contexts grow to 60,000 tokens and more; a cold instance needs 18 s for them.
    "weka_agentic": {"trace": "weka_agentic", "max_prompt_tokens": 65_536, "slo_s": 20.0, "limit": 2000},
    "lmcache_agents": {"trace": "lmcache_agents"},
    "azure_conv": {"trace": "azure_2023/conv.csv"},
    "azure_code": {"trace": "azure_2023/code.csv"},
}
_SYNTHETIC = ("synth:hot", "synth:hot-60", "synth:hot-short", "synth:low-reuse")

# Requests a second at which every policy is run, so that there are whole curves and a common rate.
_CURVES = {
    "prefill-only": (5.0, 6.0, 7.0, 8.0, 8.8, 9.6, 10.2, 10.8),
    "full": (4.0, 5.0, 6.0, 7.0, 7.6, 8.2, 8.8),
}

ABLATIONS: tuple[dict[str, Any], ...] = (
    {"dual_mapping": False},
    {"adaptive_key": False},
    {"slo_aware": False},
    {"gateway_queue": False},
    {"rebalancing": False},
    {"find_holders": False},
    {"escape": False},
    {"deadline_order": False},
    {"taking": False},
)

SENSITIVITY: dict[str, tuple[float, ...]] = {
    "recompute_price_idle": (0.0, 1.0, 2.0, 4.0, 8.0),
    "recompute_price_busy": (0.0, 8.0, 16.0, 32.0, 64.0),
    "hot_slo_fraction": (0.25, 0.5, 0.75, 1.0),
    "length_handicap": (0.0, 1.0, 2.0, 4.0, 8.0),
    "patience_slos": (1.0, 1.5, 2.0, 3.0, 5.0),
    "release_window_s": (0.05, 0.2, 0.4, 0.8, 1.6),
    "decode_s_per_request": (0.0, 0.0003, 0.0006, 0.0012),
    "max_moves": (1, 4, 16, 64),
}
PACES_S = (0.03, 0.05, 0.1)  # a token, that roles are judged by
PREFILL = (2, 4, 6, 7)  # of 8 instances with roles
# Tokens a step of mixed instances, as those paces ask for (virtual/step_sizes.py).
SMALL_STEPS = {MAIN_TRACE: (144, 240, 480), "weka_agentic": (64, 112, 224)}

_SENSITIVITY_QPS = {"prefill-only": 10.6, "full": 8.8}  # a little above capacity at 90 %: where differences show


@dataclass(frozen=True, slots=True)
class StudyCell:
    """What is asked for by one name: jobs in the order of their use. left_out: what is missing, and why."""

    name: str
    jobs: Sequence[Job]
    left_out: str = ""


def study_cells(traces: Path, *, quick: bool = False) -> list[StudyCell]:
    """The most important first. quick: a tenth of the requests, one seed, no large cluster."""
    return list(_quick(_cells(traces)) if quick else _cells(traces))


def half(cell: StudyCell) -> StudyCell:
    """With half of the requests where it has many."""
    return replace(cell, jobs=[replace(job, setup=_shorter(job.setup)) for job in cell.jobs])


def only_of(cell: StudyCell, policies: Sequence[str]) -> StudyCell:
    """Without the jobs of other policies."""
    return replace(cell, jobs=[job for job in cell.jobs if job.contender.policy in policies])


def _cells(traces: Path) -> Iterator[StudyCell]:
    full = _setup(traces, MAIN_TRACE, "full")
    prefill_only = _setup(traces, MAIN_TRACE, "prefill-only")
    yield _compared(prefill_only, without=())
    yield _compared(full, without=())
    for name in _WORKLOADS:
        if name != MAIN_TRACE:
            yield _compared(_shorter(_setup(traces, name, "full")), without=FAR_BEHIND)
    for name in _SYNTHETIC:
        yield _compared(_setup(traces, name, "full"), without=BEHIND_ON_HOT)
    yield from _objectives(traces)
    yield _compared(_shorter(replace(full, model="small-cache")))
    for disturbance in DISTURBANCES:
        if disturbance != "none":
            yield _compared(_shorter(replace(full, disturbance=disturbance)))
    yield _ablated(full, seeds=1)
    yield _varied(full, seeds=1)
    for instances in (16, 64, 256):
        yield _compared(_shorter(replace(full, instances=instances)))
    yield _compared(replace(_setup(traces, "synth:hot", "full"), instances=64), without=(*BEHIND_ON_HOT, *BEHIND))
    yield from _roles(traces)
    yield _curves(full, 0)
    for seed in (1, 2):
        yield _compared(prefill_only, seed)
        yield _compared(full, seed)
    yield _ablated(prefill_only, seeds=1)
    yield _varied(prefill_only, seeds=1)
    yield _curves(prefill_only, 0)


def _objectives(traces: Path) -> Iterator[StudyCell]:
    """The same work, judged by more than the first token. Who is behind there is not behind here for sure."""
    setups: list[tuple[Setup, tuple[str, ...]]]
    setups = [(_shorter(_setup(traces, MAIN_TRACE, model)), FAR_BEHIND) for model in ("full", "prefill-only")]
    setups += [(_shorter(_setup(traces, name, "full")), FAR_BEHIND) for name in ("weka_agentic", "lmcache_agents")]
    setups.append((_setup(traces, "synth:hot", "full"), BEHIND_ON_HOT))
    for objective in (TTFT_TPOT, ITL_E2E):
        for setup, without in setups:
            if objective == TTFT_TPOT and setup.model == "prefill-only":
                continue  # an answer of one token has no pace: the cell would be that of the first token
            yield _compared(replace(setup, objective=objective), without=without)


def _shorter(setup: Setup) -> Setup:
    """Half the requests: for cells that are many."""
    return replace(setup, limit=min(setup.limit, 4000), warmup=250)


def _setup(traces: Path, name: str, model: str) -> Setup:
    if is_synthetic(name):
        return Setup(name, model=model)
    values = _WORKLOADS[name]
    return Setup(name=name, model=model, **{**values, "trace": str(traces / values["trace"])})


def _compared(setup: Setup, seed: int = 0, *, without: Sequence[str] = (*FAR_BEHIND, *BEHIND)) -> StudyCell:
    bounded = can_bound(DISTURBANCES[setup.disturbance])
    policies = [policy for policy in POLICY_NAMES if policy not in without]
    if bounded:
        policies.append(BOUND)
    jobs = [CapacityJob(setup, Contender(policy, seed), TARGETS) for policy in policies]
    left_out = "" if bounded else f"{BOUND} (it serves one gateway and instances that stay)"
    if without:
        left_out = "; ".join(filter(None, (left_out, f"{', '.join(without)} (behind in other cells)")))
    return StudyCell(f"capacity {_name(setup)} seed-{seed}", jobs, left_out)


def _curves(setup: Setup, seed: int) -> StudyCell:
    rates = tuple(dict.fromkeys(_on_grid(qps) for qps in _CURVES[setup.model]))
    jobs = [RateJob(setup, Contender(policy, seed), rates) for policy in (*POLICY_NAMES, BOUND)]
    return StudyCell(f"curves {_name(setup)} seed-{seed}", jobs)


def _ablated(setup: Setup, seeds: int) -> StudyCell:
    jobs: list[Job] = []
    left_out = []
    for settings in ABLATIONS:
        if unknown := settings.keys() - _SETTINGS:
            left_out.append(f"{', '.join(sorted(unknown))} (no such setting)")
            continue
        overrides = tuple(sorted(settings.items()))
        jobs += [
            CapacityJob(setup, Contender(DUALMAP, seed, overrides, Experiment.ABLATION), TARGETS)
            for seed in range(seeds)
        ]
    return StudyCell(f"ablations {_name(setup)}", jobs, ", ".join(left_out))


def _varied(setup: Setup, seeds: int) -> StudyCell:
    """Also as it is, at the same rate."""
    rates = (_on_grid(_SENSITIVITY_QPS[setup.model]),)
    jobs: list[Job] = [RateJob(setup, Contender(DUALMAP, seed), rates) for seed in range(seeds)]
    left_out = []
    for name, values in SENSITIVITY.items():
        if name not in _SETTINGS:
            left_out.append(f"{name} (no such setting)")
            continue
        for value in values:
            contender = Contender(DUALMAP, 0, ((name, value),), Experiment.SENSITIVITY)
            jobs += [RateJob(setup, replace(contender, seed=seed), rates) for seed in range(seeds)]
    return StudyCell(f"sensitivity {_name(setup)}", jobs, ", ".join(left_out))


def _quick(cells: Iterator[StudyCell]) -> Iterator[StudyCell]:
    for cell in cells:
        jobs = [
            replace(job, setup=replace(job.setup, limit=800, warmup=80))
            for job in cell.jobs
            if job.contender.seed == 0 and job.setup.instances <= 16
        ]
        if jobs:
            yield replace(cell, jobs=jobs)


def _name(setup: Setup) -> str:
    disturbed = "" if setup.disturbance == "none" else f" {setup.disturbance}"
    judged = "" if setup.objective == TTFT else f" {setup.objective}"
    return f"{setup.title} {setup.model} {setup.instances}{disturbed}{judged}"


def _on_grid(qps: float) -> float:
    return rate_at(nearest_place(qps))


def _roles(traces: Path) -> Iterator[StudyCell]:
    """Instances that prefill and instances that decode, against as many that do both, in steps of either size."""
    for place, tpot_s in enumerate(PACES_S):
        for name, step_tokens in SMALL_STEPS.items():
            setup = replace(_setup(traces, name, "full"), limit=1000, warmup=100)
            splits = [(prefill, setup.instances - prefill) for prefill in PREFILL]
            paced = replace(setup, objective=TTFT_TPOT, tpot_s=tpot_s)
            yield _split(paced, splits, step_tokens[place], seeds=3)
    large = replace(_setup(traces, MAIN_TRACE, "full"), instances=64, limit=2000, warmup=200)
    paced = replace(large, objective=TTFT_TPOT, tpot_s=PACES_S[0])
    yield _split(paced, [(48, 16)], SMALL_STEPS[MAIN_TRACE][0], seeds=1)


def _split(setup: Setup, splits: Sequence[tuple[int, int]], step_tokens: int, seeds: int) -> StudyCell:
    divided = [replace(setup, prefill=prefill, decode=decode) for prefill, decode in splits]
    jobs = [
        CapacityJob(one, Contender(DUALMAP, seed, experiment=Experiment.ROLES), TARGETS[:1])
        for seed in range(seeds)
        for one in (setup, replace(setup, step_tokens=step_tokens), *divided)
    ]
    others = f"at {', '.join(f'{target:.0%}' for target in TARGETS[1:])}; other policies"
    return StudyCell(f"roles {_name(setup)} {setup.tpot_s * 1000:g}ms", jobs, others)


_SETTINGS = {field.name for field in fields(SchedulerConfig)}
