"""A plan as one self-contained HTML page: what to do, a picture, the table, and what was asked."""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from math import nan

from dualmap.loadtest.plan.advice import advice
from dualmap.loadtest.plan.plan import Plan
from dualmap.loadtest.plan.splits import Split
from dualmap.loadtest.plan.table import plan_table, unit, window_words, worth_words
from dualmap.loadtest.reports.charts import Axis, linear
from dualmap.loadtest.reports.style import STYLE
from dualmap.loadtest.study.charts import Series, ValueBar, labelled_lines, value_bars
from dualmap.loadtest.study.figures import figure
from dualmap.loadtest.study.style import STUDY_STYLE
from dualmap.loadtest.study.text import judged_words

_TITLE = "Instances that prefill and instances that decode"


def plan_page(plan: Plan) -> str:
    first, *others = advice(plan)
    asked = plan.question.windows[0]
    facts = {
        "Trace": f"{asked.title}, {replace(asked, window=None).in_words}",
        "Instances": f"{asked.instances} of {asked.model}",
        "What counts": judged_words(asked.objective, asked.slo_s),
        "Seconds a token": f"{asked.tpot_s:g}",
        "Policy": plan.question.policy,
        "Seeds": str(plan.question.seeds),
    }
    shown = "".join(f"<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>" for name, fact in facts.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_TITLE}</title><style>{STYLE}{STUDY_STYLE}</style></head><body><h1>{_TITLE}</h1>"
        f'<p class="said">{escape(first)}</p>{"".join(f"<p>{escape(other)}</p>" for other in others)}'
        f'<dl class="facts">{shown}</dl><div class="figures">{_picture(plan)}</div>{_table(plan_table(plan))}'
        "</body></html>\n"
    )


def _picture(plan: Plan) -> str:
    title = f"{unit(plan).capitalize()}, by instances that prefill + instances that decode"
    caption = "~: a first look, with fewer requests and one seed. Whiskers are the confidence over seeds."
    if len(plan.question.windows) > 1:
        return figure(title, _lines(plan, title), "A line for each split that was looked at exactly.")
    bars = []
    for split in plan.splits():
        worth = plan.worth(0, split) if (0, split) in plan.exact else None
        value, half = (plan.about[0, split], nan) if worth is None else worth[:2]
        bars.append(ValueBar(split.name, _role(plan, split), value, half, worth_words(plan, 0, split)))
    return figure(title, value_bars(title, bars, reference=plan.worth(0, plan.mixed).mean), caption)


def _lines(plan: Plan, title: str) -> str:
    numbers = range(len(plan.question.windows))
    splits = plan.exact_splits()
    series = [
        Series(split.name, _role(plan, split), [(n, plan.worth(n, split).mean) for n in numbers]) for split in splits
    ]
    x = Axis(0, len(numbers) - 1, "window", ticks=[(n, window_words(plan, n)) for n in numbers])
    y = linear(0, max(worth for one in series for _, worth in one.points), unit(plan))
    return labelled_lines(title, series, x, y)


def _role(plan: Plan, split: Split) -> str:
    """Of its mark: what to do stands out, and what that is compared with."""
    if split == plan.losses()[0].split:
        return "dualmap"
    return "peer" if split == plan.mixed else "other"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["".join(f"<th>{escape(name)}</th>" for name in head)]
    lines += [f"<th>{escape(name)}</th>{''.join(f'<td>{escape(v)}</td>' for v in values)}" for name, *values in body]
    return f'<div class="scroll"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'
