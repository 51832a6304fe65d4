"""A plan for programs."""

from math import isnan
from typing import Any

from dualmap.loadtest.plan.advice import advice, arguments, window_advice
from dualmap.loadtest.plan.plan import Plan
from dualmap.loadtest.plan.splits import Split


def plan_record(plan: Plan) -> dict[str, Any]:
    """worth: requests a second that keep the target or, at a rate, the share of requests within the objective.
    step_tokens: null for steps of the model. spare_step_s: as in Plan."""
    question, asked = plan.question, plan.question.windows[0]
    small = plan.small_steps
    losses = plan.losses()
    return {
        "trace": asked.title,
        "instances": asked.instances,
        "model": asked.model,
        "policy": question.policy,
        "objective": asked.objective,
        "slo_s": asked.slo_s,
        "tpot_s": asked.tpot_s,
        "attainment": question.target,
        "seeds": question.seeds,
        "advice": advice(plan),
        "windows": [_window(plan, window) for window in range(len(question.windows))],
        "fixed": [{**_split(one.split), "loses": one.mean, "loses_at_worst": one.worst} for one in losses],
        "small_steps": small
        and {**_split(small), "vllm_arguments": arguments(plan, small), "spare_step_s": plan.spare_step_s()},
        "smallest": plan.smallest and _split(plan.smallest),
    }


def _window(plan: Plan, window: int) -> dict[str, Any]:
    setup, rates = plan.question.windows[window], plan.question.rates
    return {
        "seconds": setup.window,
        "qps": None if rates is None else rates[window],
        "advice": window_advice(plan, window),
        "best": _split(plan.best(window)),
        "splits": [_worth(plan, window, split) for split in plan.splits()],
    }


def _worth(plan: Plan, window: int, split: Split) -> dict[str, Any]:
    if (window, split) not in plan.exact:
        return {**_split(split), "worth": plan.about[window, split], "exact": False}
    worth, ratio = plan.worth(window, split), plan.ratio(window, split, plan.mixed)
    return {
        **_split(split),
        "worth": worth.mean,
        "half": _known(worth.half),
        "exact": True,
        "to_mixed": _known(ratio.mean),
        "to_mixed_half": _known(ratio.half),
        "level_with_best": plan.is_level(window, split, plan.best(window)),
    }


def _split(split: Split) -> dict[str, Any]:
    return {
        "instances": split.instances,
        "prefill": split.prefill,
        "decode": split.decode,
        "step_tokens": split.step_tokens or None,
    }


def _known(value: float) -> float | None:
    return None if isnan(value) else value
