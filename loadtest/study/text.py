"""A policy study in words and plain tables: for the terminal, and as Markdown for a README."""

from collections.abc import Iterable, Sequence
from math import isnan

from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.study.file import Cell, Study
from dualmap.loadtest.study.splits import split_rows
from dualmap.loadtest.study.tables import (
    BOUND,
    DUALMAP,
    PAPER,
    TARGETS,
    Capacities,
    Estimate,
    Verdict,
    by_objective,
    is_peer,
    main_cells,
    verdict,
)
from dualmap.loadtest.virtual.objectives import IN_WORDS, TPOT_S, TTFT

NONE = "–"
SPLITS = f"Capacity at {TARGETS[0]:.0%} of instances that prefill : instances that decode, against as many that do both"
NO_HARDWARE = (
    "Virtual time: the production scheduler core in front of simulated engines. Nothing here ran on an accelerator."
)


def amount(value: Estimate, digits: int = 3) -> str:
    """12.3 ± 0.4, with as many decimals as make `digits` digits of the mean."""
    mean, half = amount_parts(value, digits)
    return f"{mean} ± {half}" if half else mean


def amount_parts(value: Estimate, digits: int = 3) -> tuple[str, str]:
    """The mean and the half width; "" for a half width that is not known."""
    if isnan(value.mean):
        return NONE, ""
    decimals = max(digits - len(str(int(abs(value.mean)))), 0)
    return f"{value.mean:.{decimals}f}", "" if isnan(value.half) else f"{value.half:.{decimals}f}"


def ratio(value: Estimate) -> str:
    return NONE if isnan(value.mean) else f"{value.mean:.2f}"


def cell_parts(cell: Cell) -> list[str]:
    """What the cell is, the usual left unsaid: one gateway, 5 s, undisturbed, judged by the first token."""
    parts = [cell.trace, cell.model, f"{cell.instances} instances"]
    if cell.gateways != 1:
        parts.append(f"{cell.gateways} gateways")
    if cell.slo_s != 5.0:
        parts.append(f"SLO {cell.slo_s:g} s")
    if cell.disturbance:
        parts.append(cell.disturbance)
    if cell.prefill:
        parts.append(split_name(cell))
    if cell.step_tokens:
        parts.append(f"steps of {cell.step_tokens} tokens")
    if cell.objective != TTFT:
        parts.append(cell.objective)
    if cell.tpot_s != TPOT_S:
        parts.append(f"{cell.tpot_s * 1000:g} ms a token")
    return parts


def split_name(cell: Cell) -> str:
    """Who does what there."""
    return f"{cell.prefill} prefill + {cell.decode} decode" if cell.prefill else "mixed"


def judged(cell: Cell) -> str:
    """What makes a request count there."""
    return judged_words(cell.objective, cell.slo_s)


def judged_words(objective: str, slo_s: float) -> str:
    return IN_WORDS.get(objective, objective).replace("the SLO", f"{slo_s:g} s")


def counted(cells: int) -> str:
    return "1 cell" if cells == 1 else f"{cells} cells"


def cell_name(cell: Cell) -> str:
    return " · ".join(cell_parts(cell))


class Headline:
    """The table of one cell: capacities, ratios at the first target, and what a user waits at that capacity."""

    def __init__(self, capacities: Capacities, cell: Cell) -> None:
        self.cell = cell
        self.targets = [target for target in TARGETS if target in capacities.targets] or capacities.targets
        first = self.targets[0]
        means = {p: capacities.of(cell, first, p).mean for p in capacities.policies(cell, first)}
        ranked = sorted(filter(is_peer, means), key=lambda p: -means[p] if not isnan(means[p]) else 1.0)
        self.policies = [*(p for p in (DUALMAP,) if p in means), *ranked, *(p for p in (BOUND,) if p in means)]
        self.bases = [p for p in (PAPER,) if p in means]  # what ratios are taken to
        best = capacities.best_peer(cell, first)
        self.bases += [best] if best is not None and best not in self.bases else []
        self.columns = (
            *(f"req/s at {target:.0%}" for target in self.targets),
            *(f"of {base}" for base in self.bases),
            "TTFT P50 s",
            "P99 s",
            "hit rate",
        )
        self._capacities = capacities

    def row(self, policy: str) -> list[tuple[str, str]]:
        """A cell for each column: what is shown, and the half width of its interval or ""."""
        of = self._capacities.of
        first = self.targets[0]
        hits = of(self.cell, first, policy, "hit_rate")
        ratios = (self._capacities.ratio(self.cell, first, policy, base) for base in self.bases)
        return [
            *(amount_parts(of(self.cell, target, policy)) for target in self.targets),
            *(
                ("1", "") if policy == base else amount_parts(value)
                for base, value in zip(self.bases, ratios, strict=True)
            ),
            amount_parts(of(self.cell, first, policy, "ttft_p50_s")),
            amount_parts(of(self.cell, first, policy, "ttft_p99_s")),
            (NONE if isnan(hits.mean) else f"{hits.mean:.1%}", ""),
        ]


def verdict_lines(found: Verdict) -> list[str]:
    """The summary, worst news included."""
    objective = found.worst_cell.objective
    within = "the SLO" if objective == TTFT else objective
    lines = [f"Capacity at {found.target:.0%} within {within}, over {counted(found.cells)} (geometric means):"]
    also = ", also the best single peer" if found.peer == PAPER else ""
    if found.paper_cells:
        lines.append(f"{DUALMAP} / {PAPER}{also}: {found.to_paper:.2f} over {counted(found.paper_cells)}")
    if not also:
        lines.append(
            f"{DUALMAP} / {found.peer}, the best single peer: {found.to_peer:.2f} over {counted(found.peer_cells)}"
        )
    lines += [
        f"{DUALMAP} / the best peer of each cell, whichever it is: {found.to_best:.2f}",
        f"worst cell: {amount(found.worst)} of {found.worst_peer} in {cell_name(found.worst_cell)}",
    ]
    return lines


def text_report(study: Study) -> str:
    lines = [NO_HARDWARE]
    apart = by_objective(study.capacities)
    for capacities in apart.values():
        for cell in main_cells(capacities.cells):
            table = Headline(capacities, cell)
            rows = [["policy", *table.columns]]
            rows += [[p, *(f"{v} ± {h}" if h else v for v, h in table.row(p))] for p in table.policies]
            lines += ["", cell_name(cell), *aligned(rows, underlined=True)]
        cells = _cell_rows(capacities)
        if len(cells) > 1:
            lines += ["", *aligned(cells, underlined=True)]
        for target in capacities.targets:
            found = verdict(capacities, target)
            if found is not None:
                lines += ["", *verdict_lines(found)]
    if splits := split_table(study):
        lines += ["", SPLITS, *aligned(splits, underlined=True)]
    if not apart and not splits:
        lines.append(
            f"{len(study.runs)} runs and {len(study.costs)} decision costs, no capacities: see the page (--html)."
        )
    if any(row.policy == BOUND for row in study.capacities):
        lines += [
            "",
            f"{BOUND}: one cache shared by all instances, one FIFO queue; no router can be expected to reach it",
        ]
    return "\n".join(lines)


def _cell_rows(capacities: Capacities) -> list[list[str]]:
    target = TARGETS[0]
    rows = [["cell", DUALMAP, f"/ {PAPER}", "/ best peer", "best peer", f"/ {BOUND}"]]
    for cell in capacities.cells:
        if DUALMAP not in capacities.policies(cell, target):
            continue
        best = capacities.best_peer(cell, target)
        rows.append(
            [
                cell_name(cell),
                amount(capacities.of(cell, target, DUALMAP)),
                ratio(capacities.ratio(cell, target, DUALMAP, PAPER)),
                amount(capacities.ratio(cell, target, DUALMAP, best)) if best else NONE,
                best or NONE,
                ratio(capacities.ratio(cell, target, DUALMAP, BOUND)),
            ]
        )
    return rows


def split_table(study: Study) -> list[list[str]]:
    """Its heading and a row for each work; nothing where no instances have roles."""
    rows = split_rows(study)
    columns = sorted({split for row in rows for split in row.splits})
    names = [f"{split.numerator}:{split.denominator}" for split in columns]
    small = ["mixed, small steps", "small steps / best split"] if any(row.small_steps.seeds for row in rows) else []
    table = [["work", "mixed", *names, "best / mixed", *small]] if rows else []
    for row in rows:
        splits = [amount(row.splits[split]) if split in row.splits else NONE for split in columns]
        by_steps = [amount(row.small_steps), amount(row.small_to_best)] if small else []
        table.append([cell_name(row.cell), amount(row.mixed), *splits, amount(row.to_mixed), *by_steps])
    return table


def markdown_report(study: Study) -> str:
    """The same numbers for a README. dualmap's rows are bold, the bound's are in italics."""
    every = Capacities(study.capacities)
    lines = [NO_HARDWARE + (f" {_seeds(every)}" if every.cells else ""), ""]
    for objective, capacities in by_objective(study.capacities).items():
        for cell in main_cells(capacities.cells):
            table = Headline(capacities, cell)
            rows = []
            for policy in table.policies:
                style = {DUALMAP: "**", BOUND: "*"}.get(policy, "")
                shown = [policy, *(f"{v} ± {h}" if h else v for v, h in table.row(policy))]
                rows.append([f"{style}{value}{style}" for value in map(_plain, shown)])
            lines += [f"{_plain(cell_name(cell))}:", "", _markdown(["policy", *table.columns], rows), ""]
        cells = _cell_rows(capacities)
        if len(cells) > 1:
            by = "" if objective == TTFT else f", by {_plain(objective)}"
            lines += [f"Capacity at {TARGETS[0]:.0%}, all cells{by}:", "", _markdown(cells[0], cells[1:]), ""]
        found = verdict(capacities, TARGETS[0])
        if found is not None:
            head, *rest = verdict_lines(found)
            lines += [_plain(head), "", *(f"- {_plain(line)}" for line in rest), ""]
    if splits := split_table(study):
        lines += [f"{SPLITS}:", "", _markdown(splits[0], splits[1:]), ""]
    return "\n".join(lines)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(map(_plain, line)) + " |" for line in lines)


def _plain(value: str) -> str:
    """A name cannot end a table's cell or become a tag."""
    return value.replace("\\|", "|").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _seeds(capacities: Capacities) -> str:
    return confidence_words(
        max(
            capacities.of(c, t, p).seeds
            for c in capacities.cells
            for t in capacities.targets
            for p in capacities.policies(c, t)
        )
    )


def confidence_words(seeds: int) -> str:
    match seeds:
        case 0 | 1:
            return "One seed: differences of a few per cent may be chance."
        case 2:
            return "Two seeds; ± is half their range."
    return f"{seeds} seeds; ± is the 95 % t-interval over seeds (ratios are taken within each seed)."
