"""The tables of a plan: a line for each split, or for each window of a day."""

from dualmap.loadtest.plan.plan import Plan
from dualmap.loadtest.plan.splits import Split
from dualmap.loadtest.study.tables import Estimate
from dualmap.loadtest.study.text import NONE, amount


def plan_table(plan: Plan) -> list[list[str]]:
    """With its heading. What only a first look was taken at has a ~."""
    return _by_window(plan) if len(plan.question.windows) > 1 else _by_split(plan)


def worth_words(plan: Plan, window: int, split: Split) -> str:
    if (window, split) in plan.exact:
        return _worth(plan, plan.worth(window, split))
    about = plan.about[window, split]
    return f"~{_worth(plan, Estimate(about), 2)}" if about else "none"


def unit(plan: Plan) -> str:
    if plan.question.rates is None:
        return f"requests/s at {plan.question.target:.3g}"
    return "within the objective"


def window_words(plan: Plan, window: int) -> str:
    setup = plan.question.windows[window]
    return "all" if setup.window is None else "{:.0f} to {:.0f} s".format(*setup.window)


def _by_split(plan: Plan) -> list[list[str]]:
    rates, best = plan.question.rates, plan.best(0)
    goodput = [] if rates is None else ["requests/s within"]
    table = [["prefill + decode", unit(plan), *goodput, "/ mixed", ""]]
    for split in plan.splits():
        exact = (0, split) in plan.exact
        share = plan.worth(0, split).mean if exact else plan.about[0, split]
        within = [] if rates is None else [f"{share * rates[0]:.3g}"]
        to_mixed = amount(plan.ratio(0, split, plan.mixed)) if exact else NONE
        standing = "best" if split == best else "level with it" if exact and plan.is_level(0, split, best) else ""
        table.append([split.name, worth_words(plan, 0, split), *within, to_mixed, standing])
    return table


def _by_window(plan: Plan) -> list[list[str]]:
    rates = plan.question.rates
    at = [] if rates is None else ["requests/s"]
    columns = [split for split in plan.splits() if not split.step_tokens or split == plan.small_steps]
    table = [["window", *at, *(split.name for split in columns), "best"]]
    for window in range(len(plan.question.windows)):
        rate = [] if rates is None else [f"{rates[window]:.3g}"]
        worth = [worth_words(plan, window, split) for split in columns]
        table.append([window_words(plan, window), *rate, *worth, plan.best(window).name])
    fixed = {one.split: one for one in plan.losses()}
    for name, field in (("loses on average", "mean"), ("in the worst", "worst")):
        lost = [f"{getattr(fixed[split], field):.0%}" if split in fixed else NONE for split in columns]
        table.append([name, *("" for _ in at), *lost, plan.losses()[0].split.name])
    return table


def _worth(plan: Plan, value: Estimate, digits: int = 3) -> str:
    if not value.mean > 0:
        return "none"
    if plan.question.rates is None:
        return amount(value, digits)
    return amount(value._replace(mean=value.mean * 100, half=value.half * 100), digits) + " %"
