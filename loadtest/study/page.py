"""One self-contained HTML page about a policy study: no script, no external asset, light and dark, phone and paper."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isnan
from typing import NamedTuple

from dualmap.loadtest.reports.style import STYLE
from dualmap.loadtest.study.figures import attainment_curves, equal_load, first_token_quantiles, roles, trade_off
from dualmap.loadtest.study.file import Cell, Study
from dualmap.loadtest.study.guide import guide_table, sentence
from dualmap.loadtest.study.heat import heat_table
from dualmap.loadtest.study.style import STUDY_STYLE
from dualmap.loadtest.study.tables import (
    BOUND,
    DUALMAP,
    PAPER,
    TARGETS,
    Capacities,
    Verdict,
    by_objective,
    main_cells,
    standing,
    verdict,
)
from dualmap.loadtest.study.techniques import ablations, cluster_sizes, decision_costs, sensitivities, sensitivity_cells
from dualmap.loadtest.study.text import (
    SPLITS,
    Headline,
    amount,
    cell_name,
    confidence_words,
    counted,
    judged,
    split_table,
)
from dualmap.loadtest.virtual.objectives import TTFT

COMMANDS = {  # what writes the rows of a section that a study lacks
    "capacity": "python -m dualmap.loadtest.study",
    "runs": "python -m dualmap.loadtest.study",
    "sizes": "python -m dualmap.loadtest.study",
    "ablation": "python -m dualmap.loadtest.study --only ablations",
    "sensitivity": "python -m dualmap.loadtest.study --only sensitivity",
    "roles": "python -m dualmap.loadtest.study --only roles",
    "decision_cost": "python -m dualmap.loadtest.study.decision_cost --study runs/study.jsonl",
}
_TITLE = "Policies for a fleet of vLLM instances, in virtual time"


def study_page(study: Study) -> str:
    capacities = Capacities(study.capacities)
    apart = by_objective(study.capacities)
    policies = standing(capacities, study.runs)
    role = roles(policies)
    curves = [*attainment_curves(study, role), *first_token_quantiles(study, role), *trade_off(capacities, role)]
    panels = sensitivities(study)
    parts = [
        _part(
            "Which router for my work",
            f"Capacity at {TARGETS[0]:.0%}. The best peer is the best policy other than {DUALMAP}, chosen after the "
            "fact for each kind of work.",
            _scroll(guide_table(apart, TARGETS[0])),
            "capacity",
        ),
        _headline(apart, role),
        *(_all_cells(by, found, policies, role) for by, found in (apart or {TTFT: capacities}).items()),
        _part(
            "Behind the capacities",
            "Every line is one policy. Point at a quiet one to bring it out.",
            _figures(curves) and _legend(policies, role) + _figures(curves),
            "runs",
        ),
        _part(
            "At equal load",
            "The same requests at the same rate for every policy, near the capacity of the middle of the field. "
            "Whiskers are the confidence over seeds.",
            _figures(equal_load(study, role)),
            "runs",
        ),
        _part("Cluster size", "", _figures(cluster_sizes(capacities, role)), "sizes"),
        _part("Prefill and decode apart", f"{SPLITS}.", _scroll(_splits(study)), "roles"),
        _part(
            "What each technique is worth",
            f"{DUALMAP} with one technique switched off, the rest as it is.",
            _figures(ablations(study, capacities)),
            "ablation",
        ),
        _part(
            "What the constants are worth",
            f"Share of requests within the SLO as one constant of {DUALMAP} varies; the default is dotted. All panels "
            f"share one axis, so a flat line is a constant that hardly matters; values that span a factor "
            "of eight are spaced by their logarithm.",
            _keys(sensitivity_cells(study)) + f'<div class="panels">{"".join(panels)}</div>' if panels else "",
            "sensitivity",
        ),
        _part("Cost of a decision", "", _figures(decision_costs(study, role)), "decision_cost"),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_TITLE}</title><style>{STYLE}{STUDY_STYLE}</style></head><body>"
        f"<h1>{_TITLE}</h1>{_said(sentence(apart, TARGETS[0]))}{_what_was_simulated(study)}{_contents(parts)}"
        f"{''.join(part.html for part in parts)}</body></html>\n"
    )


def _what_was_simulated(study: Study) -> str:
    rows = [*study.runs, *study.capacities]
    cut_short = [run for run in study.runs if not run.complete]
    facts = {
        "Models": _listed(row.model for row in rows),
        "Traces": _listed(row.trace for row in rows),
        "Policies": _listed(row.policy for row in rows),
        "Seeds": _listed(row.seed for row in rows),
        "Simulated": f"{len(study.runs):,} runs, {sum(run.requests for run in study.runs):,} requests",
        "Date": _listed(header.date for header in study.headers),
        "Machine": _listed(header.machine for header in study.headers),
        "Version": _listed(
            f"{h.version}, Python {h.python}" if h.version and h.python else h.version for h in study.headers
        ),
    }
    shown = "".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items() if fact)
    seeds = len({row.seed for row in rows})
    doubt = ""
    if cut_short:
        doubt = f'<p class="doubt">{len(cut_short):,} runs were stopped before their last request ended.</p>'
    return (
        '<p class="lead">Nothing on this page ran on an accelerator. The scheduler is the production core, called '
        "event by event as the gateway calls it; the instances are simulated engines whose steps take the time that "
        "their profile says; the clock is virtual. The paper (arXiv 2602.06502) measured real engines on NPUs. Read "
        "the ratios between policies; the absolute rates hold for these profiles only.</p>"
        f'<dl class="facts">{shown}</dl>'
        f'<p class="quiet">{escape(confidence_words(seeds))} <b>{BOUND}</b> is a reference, not a policy: one cache '
        "shared by all instances and one FIFO queue, which no router over private caches can be expected to reach.</p>"
        f"{doubt}"
    )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in sorted(set(values), key=lambda v: (isinstance(v, str), v)) if value != "")


class _Part(NamedTuple):
    """A section. anchor: what the contents link to."""

    title: str
    anchor: str
    html: str


def _part(title: str, lead: str, content: str, kind: str) -> _Part:
    anchor = "-".join(re.findall("[a-z0-9]+", title.lower()))
    head = f'<section id="{anchor}"><h2 class="part">{escape(title)}</h2>'
    if content:
        body = f"<p>{escape(lead)}</p>{content}" if lead else content
    else:
        body = f'<p class="absent">Not in these files. To measure it: <code>{COMMANDS[kind]}</code></p>'
    return _Part(title, anchor, f"{head}{body}</section>")


def _contents(parts: Sequence[_Part]) -> str:
    links = "".join(f'<li><a href="#{part.anchor}">{escape(part.title)}</a></li>' for part in parts)
    return f'<nav><ol class="contents">{links}</ol></nav>'


def _said(sentence: str) -> str:
    return f'<p class="said">{escape(sentence)}</p>' if sentence else ""


def _scroll(table: str) -> str:
    return table and f'<div class="scroll">{table}</div>'


def _figures(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


def _legend(policies: Sequence[str], role: Mapping[str, str]) -> str:
    said = {"dualmap": "", "paper": "", "peer": " (best other peer)", "bound": " (reference)"}
    entries = [(role[p], p + said[role[p]]) for p in policies if role[p] in said]
    if len(entries) < len(policies):
        entries.insert(len(entries) - (BOUND in policies), ("other", "the other policies"))
    return _keys(entries)


def _keys(entries: Sequence[tuple[str, str]]) -> str:
    """entries: CSS class of the line, what it is."""
    key = '<svg class="key policy {}" viewBox="0 0 24 10"><line class="line" x1="1" x2="23" y1="5" y2="5"/></svg>'
    return (
        f'<div class="legend">{"".join(f"<span>{key.format(css)}{escape(name)}</span>" for css, name in entries)}</div>'
    )


def _headline(apart: Mapping[str, Capacities], role: Mapping[str, str]) -> _Part:
    tables = []
    for capacities in apart.values():
        for cell in main_cells(capacities.cells):
            counts = "" if cell.objective == TTFT else f'<p class="quiet">What counts: {escape(judged(cell))}.</p>'
            tables.append(f"<h3>{escape(cell_name(cell))}</h3>{counts}{_scroll(_table(capacities, cell, role))}")
    return _part(
        "How much traffic the fleet bears",
        "Capacity: the highest rate, in requests a second over the fleet, at which that share of the requests had "
        "their first token within the SLO, or kept another objective where the table names one. Times and hit rate are "
        "measured at the capacity of the first column, so each policy's are at its own rate. Ratios compare capacities "
        "of the first column.",
        "".join(tables),
        "capacity",
    )


def _table(capacities: Capacities, cell: Cell, role: Mapping[str, str]) -> str:
    table = Headline(capacities, cell)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("policy", *table.columns))
    body = []
    for policy in table.policies:
        cells = "".join(
            f"<td>{value}" + (f' <span class="half">± {half}</span>' if half else "") + "</td>"
            for value, half in table.row(policy)
        )
        body.append(f'<tr class="{role[policy]}"><th>{escape(policy)}</th>{cells}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _splits(study: Study) -> str:
    if not (table := split_table(study)):
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in table[0])
    body = "".join(
        f"<tr><th>{escape(work)}</th>{''.join(f'<td>{escape(value)}</td>' for value in values)}</tr>"
        for work, *values in table[1:]
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _all_cells(objective: str, capacities: Capacities, policies: Sequence[str], role: Mapping[str, str]) -> _Part:
    title = "All cells" if objective == TTFT else f"All cells, by {objective}"
    verdicts = [found for target in capacities.targets if (found := verdict(capacities, target)) is not None]
    if not verdicts:
        return _part(title, "", "", "capacity")
    first, *others = verdicts
    content = _cards(first)
    content += f'<div class="scroll">{heat_table(capacities, first.target, policies, role)}</div>'
    content += (
        '<p class="quiet">below the best peer <span class="scale"></span> above it; full colour at half and at one and '
        "a half. Outlined: the best peer itself, 1.00. Point at a number for its rate and interval.</p>"
    )
    for found in others:
        content += (
            f"<details><summary>The same at {found.target:.0%}: {found.to_peer:.2f} of {escape(found.peer)} over "
            f"{counted(found.peer_cells)}, worst cell {found.worst.mean:.2f}</summary>{_cards(found)}"
            f'<div class="scroll">{heat_table(capacities, found.target, policies, role)}</div></details>'
        )
    return _part(
        title,
        f"Capacity at {first.target:.0%}, as a ratio to the best peer of that same cell: the best policy other than "
        f"{DUALMAP} and {BOUND}, whichever it is there. A peer is thus chosen after the fact for each cell, which no "
        "operator could do: a harder test than any one policy.",
        content,
        "capacity",
    )


def _cards(found: Verdict) -> str:
    over = f"geometric mean over {counted(found.paper_cells)}"
    if found.peer == PAPER:
        cards = [(found.to_paper, f"{DUALMAP} / {PAPER}, also the single peer with the best mean; {over}")]
    else:
        peer = f"{DUALMAP} / {found.peer}, the single peer with the best mean, over {counted(found.peer_cells)}"
        cards = [(found.to_paper, f"{DUALMAP} / {PAPER}, {over}"), (found.to_peer, peer)]
    worst = f"worst cell ({amount(found.worst)}): {found.worst_peer} in {cell_name(found.worst_cell)}"
    cards += [
        (found.to_best, f"{DUALMAP} / the best peer of each cell, geometric mean over {counted(found.cells)}"),
        (found.worst.mean, worst),
    ]
    shown = "".join(
        f'<div class="verdict"><b class="{_side(value)}">{value:.2f}</b><span>{escape(text)}</span></div>'
        for value, text in cards
        if not isnan(value)
    )
    return f'<div class="verdicts">{shown}</div>'


def _side(value: float) -> str:
    return "low" if value < 1 else "high"
