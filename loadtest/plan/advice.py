"""What a plan says to do, in sentences."""

from collections.abc import Iterator

from dualmap.loadtest.plan.plan import LEVEL, Plan
from dualmap.loadtest.plan.splits import Split
from dualmap.loadtest.study.text import amount, confidence_words

CAUTION = (
    "Virtual time: the production scheduler in front of simulated engines, with the step times of one profile. Measure "
    "a server of your own (dualmap calibrate) and give its profile as --model. Smaller steps steady the tokens of "
    "mixed instances, too: compare with a profile of such (max_num_batched_tokens) as --mixed-model."
)


def advice(plan: Plan) -> list[str]:
    """Each a sentence or two; the first says what to do."""
    windows = plan.question.windows
    said = list(_changing(plan)) if len(windows) > 1 else [window_advice(plan, 0)]
    if plan.question.rates is not None and len(windows) == 1:
        found = "none that was looked at" if plan.smallest is None else plan.smallest.in_words
        said.append(
            f"The fewest that keep {100 * plan.question.target:.4g} % of the requests within the objective: {found}."
        )
    return [*said, confidence_words(plan.question.seeds), CAUTION]


def window_advice(plan: Plan, window: int) -> str:
    mixed, best = plan.mixed, plan.best(window)
    most = plan.worth(window, best)
    if not most.mean > 0:
        return f"No split of {mixed.instances} instances keeps the objective for a request."
    alone_keeps = plan.question.rates is not None and plan.worth(window, mixed).mean < plan.question.target <= most.mean
    if best == mixed or (plan.is_level(window, mixed, best) and not alone_keeps):
        rivals = [split for split in plan.exact_splits() if split != mixed]
        first = max(rivals, key=lambda split: plan.worth(window, split).mean, default=None)
        if first is None:
            return f"{mixed.in_words}: there is nothing to divide."
        return f"{mixed.in_words}, as they are: {_worth(plan, window, mixed)}; {_compared(plan, window, first, mixed)}."
    others = sorted(
        (split for split in plan.exact_splits() if split not in (mixed, best)),
        key=lambda split: -plan.worth(window, split).mean,
    )
    near = "".join(f"; {_compared(plan, window, split, best)}" for split in others[:2])
    return f"{best.in_words}: {_against_mixed(plan, window, best)}{near}."


def _changing(plan: Plan) -> Iterator[str]:
    """Of a day in windows."""
    fixed, *others = plan.losses()
    if fixed.worst <= LEVEL:
        yield f"{fixed.split.in_words} for all windows: nothing else serves more in any of them."
    else:
        yield (
            f"{fixed.split.in_words}, if the split stays: it loses {fixed.mean:.0%} on average and {fixed.worst:.0%} "
            "in the worst window against the best split of each window. What a change of roles costs, restarts and "
            "cold caches, is not counted."
        )
    for other in others:
        if other.split == plan.mixed:
            yield f"{plan.mixed.in_words} lose {other.mean:.0%} on average and {other.worst:.0%} in the worst window."


def _against_mixed(plan: Plan, window: int, best: Split) -> str:
    mixed = plan.mixed
    if not plan.worth(window, mixed).mean > 0:
        return f"{_worth(plan, window, best)}, where {mixed.in_words} keep the objective at no rate"
    if plan.question.rates is not None:
        of_mixed = f"{plan.worth(window, mixed).mean:.1%}"
        return f"{_worth(plan, window, best)}, with {mixed.in_words} {of_mixed}"
    return f"{amount(plan.ratio(window, best, mixed))} times the requests of {mixed.in_words}"


def _worth(plan: Plan, window: int, split: Split) -> str:
    worth = plan.worth(window, split)
    if plan.question.rates is None:
        return f"{amount(worth)} requests/s"
    return f"{worth.mean:.1%} of {plan.question.rates[window]:.3g} requests/s are within the objective"


def _compared(plan: Plan, window: int, split: Split, to: Split) -> str:
    found = plan.ratio(window, split, to)
    if plan.is_level(window, split, to):
        return f"{split.name} is level ({amount(found)})"
    return f"{split.name} loses {1 - found.mean:.0%}"
