"""A workload and a cluster as a few numbers, from which a run follows bit by bit."""

import json
from dataclasses import dataclass, fields
from typing import Any

BLOCK_TOKENS = 512
LONGEST_TOKENS = 32_768  # of a prompt and its answer together: fits into the smallest KV cache that is tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The defaults are the plainest case: single prompts that share nothing, on eight equal instances.

    seed: of prompts, lengths and arrivals. requests: at most; fewer where an engine would take too many steps.
    speed: of all instances, as a multiple of that of `dualmap.loadtest.virtual.models`' full model.
    slow_share: share of the instances that take slow_factor as long for everything; told: 1 if the gateways know the
        speed of each instance, 0 if they believe that all are of the full model's.
    kv_tokens, offload_tokens: what an instance's cache holds, and the tier behind it.
    utilisation: arrival rate as a share of what the fleet bears without any affinity.
    burst_factor: rate within bursts of burst_s seconds, as a multiple of the mean; nothing arrives between them.
        1: a Poisson process.
    hot_prefixes: how many there are; hot_share: share of the sessions that begin with one of them, 0 to 1;
        hot_blocks: blocks of 512 tokens in each.
    tail_tokens, other_tokens: median length of what follows a hot prefix, and of a prompt without one.
    prompt_spread, answer_spread: sigma of the log-normal lengths; 0: all are as long as the median.
    turns: requests of a session; think_s: pause before a turn after the first, 0: an agent that goes on at once;
        turn_tokens: median of what a turn adds to the prompt and the answer before it.
    """

    seed: int = 0
    requests: int = 800
    instances: int = 8
    gateways: int = 1
    speed: float = 1.0
    slow_share: float = 0.0
    slow_factor: float = 2.0
    told: int = 1
    kv_tokens: int = 740_000
    offload_tokens: int = 0
    slo_s: float = 5.0
    utilisation: float = 0.5
    burst_factor: float = 1.0
    burst_s: float = 5.0
    hot_prefixes: int = 1
    hot_share: float = 0.0
    hot_blocks: int = 4
    tail_tokens: int = 1000
    other_tokens: int = 1000
    prompt_spread: float = 0.5
    answer_tokens: int = 100
    answer_spread: float = 0.5
    turns: int = 1
    think_s: float = 5.0
    turn_tokens: int = 200

    @property
    def slow_instances(self) -> int:
        return min(round(self.slow_share * self.instances), self.instances - 1)


NAMES = tuple(field.name for field in fields(Case))
DEFAULT = Case()


def changed(case: Case) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    values = ((name, getattr(case, name)) for name in NAMES)
    return {name: value for name, value in values if value != getattr(DEFAULT, name)}


def as_json(case: Case) -> str:
    return json.dumps(changed(case), separators=(",", ":"))


def case_of(text: str) -> Case:
    """Raises ValueError, with the field and what it takes."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"a case is a JSON object, not {text!r} ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"a case is a JSON object, not {text!r}")
    return case_from(values)


def case_from(values: dict[str, Any]) -> Case:
    """Raises ValueError, with the field and what it takes."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in NAMES:
            raise ValueError(f"a case has no field {name!r}; there are {', '.join(NAMES)}")
        whole = isinstance(getattr(DEFAULT, name), int)
        if type(value) is not int and (whole or type(value) is not float):
            raise ValueError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}")
        if not LEAST.get(name, 0) <= value <= MOST.get(name, float("inf")):
            limits = f"from {LEAST.get(name, 0)} to {MOST.get(name, 'as much as you like')}"
            raise ValueError(f"{name} must be {limits}, not {value!r}")
        found[name] = value if whole else float(value)
    return Case(**found)


LEAST: dict[str, float] = {
    **dict.fromkeys(("requests", "instances", "gateways", "hot_prefixes", "hot_blocks", "turns"), 1),
    **dict.fromkeys(("tail_tokens", "other_tokens", "answer_tokens", "turn_tokens", "burst_factor"), 1),
    **dict.fromkeys(("speed", "slow_factor", "slo_s", "utilisation", "burst_s"), 0.01),
    "kv_tokens": LONGEST_TOKENS,
}
MOST: dict[str, float] = {"hot_share": 1, "slow_share": 1, "told": 1, "hot_blocks": 48}
