"""What a search found, and what one case is like, for a terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from statistics import median

from dualmap.loadtest.harm.case import as_json
from dualmap.loadtest.harm.harm import BAR, BASES, Evaluate, Evaluation
from dualmap.loadtest.harm.kinds import Group, kind_of, overloaded, worst_of_kinds
from dualmap.loadtest.harm.measure import Measures
from dualmap.loadtest.reports.aligned_rows import aligned

WORDS = {"ttft_p90_s": "TTFT P90", "e2e_p50_s": "E2E P50", "tpot_p90_s": "TPOT P90"}
_COLUMNS = (
    ("TTFT P50 s", "ttft_p50_s", 1, 3),
    ("P90 s", "ttft_p90_s", 1, 3),
    ("P99 s", "ttft_p99_s", 1, 3),
    ("E2E P50 s", "e2e_p50_s", 1, 3),
    ("TPOT P90 ms", "tpot_p90_s", 1000, 1),
    ("within SLO", "attainment", 1, 4),
    ("load max/mean", "load_skew", 1, 2),
    ("hit rate", "hit_rate", 1, 2),
    ("failed", "failed", 1, 0),
)
assert {name for _, name, _, _ in _COLUMNS} == {field.name for field in fields(Measures)}


@dataclass(frozen=True, slots=True)
class Checked:
    """A case with its harm under other seeds: what is bad by chance is not bad again."""

    found: Evaluation
    others: tuple[float, ...]

    @property
    def harm(self) -> float:
        return median((self.found.harm, *self.others))


def checked(found: Sequence[Evaluation], evaluate: Evaluate, seeds: int) -> list[Checked]:
    """The worst first."""
    done = []
    for one in found:
        others = (evaluate(replace(one.case, seed=one.case.seed + 1 + other)) for other in range(seeds))
        done.append(Checked(one, tuple(other.harm for other in others)))
    return sorted(done, key=lambda one: -one.harm)


def search_lines(evaluations: Sequence[Evaluation], count: int, evaluate: Evaluate, seeds: int) -> Iterator[str]:
    """count: of the kinds of each group, and of those under overload."""
    borne = sum(one.borne for one in evaluations)
    yield f"{len(evaluations)} cases, of which the base policies bear {borne}; harm above {BAR} is too much"
    for group in Group:
        worst = [one for one in worst_of_kinds(evaluations, count, group) if one.harm > BAR]
        yield f"\n{group}: {len(worst)} kinds are worse than {BAR}" if worst else f"\n{group}: no harm found"
        for one in checked(worst, evaluate, seeds):
            yield from _case_lines(one)
    short = overloaded(evaluations, count)
    yield f"\nOverload: {len(short)} kinds fall short" if short else "\nOverload: no shortfall found"
    for found in short:
        yield f"{found.shortfall:7.1%}  {', '.join(kind_of(found.case))}"
        yield f"         {command(found)}"


def _case_lines(one: Checked) -> Iterator[str]:
    found = one.found
    name = found.worst
    best = min(BASES, key=lambda base: getattr(found.measures[base], name))
    values = [getattr(found.measures[policy], name) for policy in (found.policy, best)]
    seeds = f" (other seeds {', '.join(f'{harm:.2f}' for harm in one.others)})" if one.others else ""
    shown = f"{WORDS[name]} {values[0]:.3f} s, {best} {values[1]:.3f} s"
    yield f"{found.harm:7.2f}{seeds}  {shown}: {', '.join(kind_of(found.case))}"
    yield f"         {command(found)}"


def command(found: Evaluation) -> str:
    """Which measures the case again."""
    policy = "" if found.policy == "dualmap" else f" --policy {found.policy}"
    return f"python -m dualmap.loadtest.harm{policy} --case '{as_json(found.case)}'"


def evaluation_lines(found: Evaluation) -> list[str]:
    """All measures of all policies, side by side."""
    rows = [["policy", *(heading for heading, _, _, _ in _COLUMNS)]]
    for policy, measures in found.measures.items():
        rows.append([policy, *(_shown(getattr(measures, name), times, n) for _, name, times, n in _COLUMNS)])
    told = ", ".join(f"{WORDS[name]} {ratio:.2f}" for name, ratio in found.ratios.items())
    if found.borne:
        verdict = f"harm {found.harm:.2f}, too much" if found.harm > BAR else f"harm {found.harm:.2f}"
    else:
        verdict = f"overload for the base policies; {found.policy} falls short by {found.shortfall:.1%}"
    return [*aligned(rows), f"{verdict}   ({told})", ", ".join(kind_of(found.case))]


def _shown(value: float | None, times: int, digits: int) -> str:
    return "-" if value is None else f"{value * times:.{digits}f}"
