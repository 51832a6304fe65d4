"""What `dualmap simulate` prints at its end: a line for each policy and rate, or for each policy and target."""

from collections import defaultdict
from collections.abc import Sequence
from math import isnan, nan

from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.study.file import StudyCapacity, StudyRun, number
from dualmap.loadtest.study.tables import BOUND, UNKNOWN, Estimate, estimate, paired_ratio
from dualmap.loadtest.study.text import NONE, amount
from dualmap.loadtest.virtual.objectives import TTFT

_RUN_COLUMNS = (
    ("within SLO", "attainment", 4),
    ("of tokens", "token_goodput", 3),
    ("TTFT P50 s", "ttft_p50_s", 3),
    ("P90 s", "ttft_p90_s", 3),
    ("P99 s", "ttft_p99_s", 3),
    ("E2E P50 s", "e2e_p50_s", 3),
    ("ITL P90 ms", "itl_p90_s", 3),
    ("hit rate", "hit_rate", 3),
    ("load max/mean", "load_skew", 3),
    ("moves", "moves", 1),
    ("failed", "failed", 1),
)
_SHARES = ("attainment", "token_goodput", "hit_rate")


def run_table(runs: Sequence[StudyRun]) -> list[str]:
    """Means over seeds; ± as in the report. In the order in which policies came."""
    groups: dict[tuple[int, float, str], list[StudyRun]] = defaultdict(list)
    for run in runs:
        groups[run.instances, run.qps, run.policy].append(run)
    scaled = any(run.instance_s is not None for run in runs)
    objective = runs[0].objective if runs else TTFT
    in_cells = any(run.busiest_cell is not None for run in runs)
    headings = [_within(objective), *(heading for heading, _, _ in _RUN_COLUMNS[1:])]
    headings += ["instance-hours", "plans"] if scaled else []
    headings += ["cell max/mean"] if in_cells else []
    rows = [["policy", "instances", "requests/s", *headings]]
    for (instances, qps, policy), same in sorted(groups.items(), key=lambda item: item[0][:2]):
        cells = [_shown(estimate(number(getattr(r, name)) for r in same), name, n) for _, name, n in _RUN_COLUMNS]
        if scaled:
            cells.append(amount(estimate(number(run.instance_s) / 3600 for run in same), 3))
            cells.append(amount(estimate(len(run.plans) for run in same), 1))
        if in_cells:
            cells.append(amount(estimate(number(run.busiest_cell) for run in same), 3))
        rows.append([policy, str(instances), f"{qps:g}", *cells])
    return aligned(rows)


def plan_lines(run: StudyRun) -> list[str]:
    """When the cluster grew or shrank, and why."""
    return [f"{at_s:7.0f} s  {reason}" for at_s, reason in run.plans]


def capacity_table(capacities: Sequence[StudyCapacity]) -> list[str]:
    """Means over seeds, and ratios to the best of the policies within each seed. The best come first."""
    lines: list[str] = []
    for instances in sorted({row.instances for row in capacities}):
        here = [row for row in capacities if row.instances == instances]
        judged = "" if here[0].objective == TTFT else f", {_within(here[0].objective)}"
        lines += [f"capacity in requests/s, {instances} instances{judged}", *aligned(_capacity_rows(here)), ""]
    return lines[:-1]


def _capacity_rows(capacities: Sequence[StudyCapacity]) -> list[list[str]]:
    targets = sorted({row.attainment for row in capacities})
    by_seed: dict[tuple[str, float], dict[int, float]] = defaultdict(dict)
    for row in capacities:
        by_seed[row.policy, row.attainment][row.seed] = number(row.qps)
    means = {key: estimate(seeds.values()).mean for key, seeds in by_seed.items()}
    policies = sorted({policy for policy, _ in by_seed}, key=lambda p: -_or_zero(means.get((p, targets[0]), nan)))
    peers = [policy for policy in policies if policy != BOUND] or policies
    rows = [["policy", *(text for target in targets for text in (f"at {target:.3g}", "of the best"))]]
    best = {target: max(peers, key=lambda p: _or_zero(means.get((p, target), nan))) for target in targets}
    for policy in policies:
        cells = []
        for target in targets:
            own = by_seed.get((policy, target), {})
            ratio = paired_ratio(own, by_seed.get((best[target], target), {}))
            cells += [amount(estimate(own.values())), NONE if ratio == UNKNOWN else f"{ratio.mean:.3f}"]
        rows.append([policy, *cells])
    return rows


def _within(objective: str) -> str:
    return "within SLO" if objective == TTFT else f"within {objective}"


def _shown(value: Estimate, name: str, digits: int) -> str:
    scale = 100 if name in _SHARES else 1000 if name == "itl_p90_s" else 1
    if value == UNKNOWN:
        return NONE
    scaled = value._replace(mean=value.mean * scale, half=value.half * scale)
    return amount(scaled, digits) + (" %" if name in _SHARES else "")


def _or_zero(value: float) -> float:
    return 0.0 if isnan(value) else value
