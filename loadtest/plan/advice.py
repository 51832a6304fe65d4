"""What a plan says to do, in sentences."""

from collections.abc import Iterator

from dualmap.loadtest.plan.plan import LEVEL, Plan
from dualmap.loadtest.plan.splits import Split
from dualmap.loadtest.study.text import amount, confidence_words

CAUTION = (
    "Virtual time: the production scheduler in front of simulated engines, with the step times of one profile. Measure "
    "a server of your own (dualmap calibrate) and give its profile as --model."
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
    return [*said, *_of_small_steps(plan), confidence_words(plan.question.seeds), CAUTION]


def arguments(plan: Plan, split: Split) -> str:
    """Of vLLM, for what instances compute in a step. Raises ValueError."""
    profile = plan.question.setup(0, split).profile
    return f"--max-num-batched-tokens {profile.max_num_batched_tokens} --max-num-seqs {profile.max_num_seqs}"


def chosen(plan: Plan, window: int) -> Split:
    """The best, or mixed instances as they are where these are level with it and do not alone miss the target."""
    mixed, best = plan.mixed, plan.best(window)
    most = plan.worth(window, best).mean
    alone_keeps = plan.question.rates is not None and plan.worth(window, mixed).mean < plan.question.target <= most
    return mixed if plan.is_level(window, mixed, best) and not alone_keeps else best


def window_advice(plan: Plan, window: int) -> str:
    mixed, best = plan.mixed, chosen(plan, window)
    if not plan.worth(window, best).mean > 0:
        return f"No split of {mixed.instances} instances keeps the objective for a request."
    if best == mixed:
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
        if other.split in (plan.mixed, plan.small_steps):
            yield f"{other.split.in_words} lose {other.mean:.0%} on average and {other.worst:.0%} in the worst window."


def _of_small_steps(plan: Plan) -> Iterator[str]:
    """Where they are said to be best, or level with it: how to have them, and what to check before."""
    small = plan.small_steps
    if small is None:
        return
    choices = [(window, chosen(plan, window)) for window in range(len(plan.question.windows))]
    told = any(choice != plan.mixed and plan.is_level(window, small, choice) for window, choice in choices)
    if not told and (plan.smallest is None or not plan.smallest.step_tokens):
        return
    given = arguments(plan, small)
    yield f"For steps of {small.step_tokens} tokens: vllm serve {given}."
    if plan.question.mixed_model is not None:
        return
    spare_s = plan.spare_step_s()
    until = "" if spare_s is None else f" At {1000 * spare_s:.1f} ms more, if not at less, they lose."
    overhead_ms = 1000 * plan.question.setup(0, small).profile.step_overhead_s
    yield (
        f"That rests on the profile: a step costs {overhead_ms:g} ms besides its work there, and a small one computes "
        f"as fast as a large one.{until} Before you believe it, measure a server that is started with these arguments: "
        f"dualmap calibrate --url http://HOST:PORT {given} --out small-steps.yaml, and plan again with "
        "--mixed-model small-steps.yaml."
    )


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
