"""A made-up study with every kind of row, to look at the report without simulating: `python fake_study.py FILE`.

Its numbers are plausible in shape and mean nothing.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

POLICIES = {  # capacity against the best peer
    "dualmap": 1.16,
    "dualmap_paper": 1.0,
    "preble_e2": 0.95,
    "dynamo_kv": 0.92,
    "llm_d": 0.9,
    "min_ttft": 0.89,
    "lmetric": 0.86,
    "ray_prefix_affinity": 0.8,
    "cache_aware": 0.62,
    "chwbl": 0.58,
    "cache_affinity": 0.54,
    "power_of_two": 0.54,
    "least_loaded": 0.5,
    "round_robin": 0.46,
    "bound": 1.38,
}
TRACES = {"mooncake_conversation": 2.0, "mooncake_toolagent": 2.6, "mooncake_synthetic": 1.3, "azure_code": 6.0}
MODELS = {"qwen2.5-7b-prefill-only": 1.0, "qwen2.5-7b-full": 0.7}
CELLS = [
    *((trace, model, 8, None) for trace in TRACES for model in MODELS),
    *(("mooncake_conversation", "qwen2.5-7b-full", size, None) for size in (4, 16, 32, 64)),
    ("mooncake_conversation", "qwen2.5-7b-full", 8, "one instance lost"),
    ("mooncake_conversation", "qwen2.5-7b-full", 8, "one instance at half speed"),
]
HEADER = {
    "kind": "study",
    "format": 1,
    "date": "2026-01-01",
    "python": "3.11.9",
    "machine": "made up, 2 cores",
    "version": "0.0",
}
CONSTANTS = {
    "recompute_price": (0, 1, 2, 4, 8, 16),
    "switch_slo_fraction": (0.25, 0.5, 0.75, 1.0),
    "max_moves": (1, 4, 16, 64, 256),
    "shortness_weight": (0, 1, 2, 4, 8),
    "patience_slos": (1.0, 1.5, 2.0, 3.0, 5.0),
    "release_window_s": (0.05, 0.1, 0.2, 0.4),
}
ABLATIONS = (
    {"max_moves": 0},
    {"steal_depth": 0},
    {"recompute_price": 0},
    {"shortness_weight": 0},
    {"third": 0},
    {"key_blocks": 1, "max_key_blocks": 1},
)


def rows(seeds: int = 3) -> Iterator[dict]:
    """Every row of the study. The same for the same number of seeds."""
    yield HEADER
    noise = random.Random(1)
    for trace, model, instances, disturbance in CELLS:
        for policy, strength in POLICIES.items():
            own = strength * noise.uniform(0.92, 1.08) * (0.8 if disturbance else 1)
            own *= (instances / 8) ** (-0.1 if strength < 0.7 else 0.02)
            for seed in range(seeds):
                capacity = own * TRACES[trace] * MODELS[model] * instances * noise.uniform(0.97, 1.03)
                same = {
                    "trace": trace,
                    "policy": policy,
                    "instances": instances,
                    "seed": seed,
                    "model": model,
                    "disturbance": disturbance,
                    "slo_s": 5.0,
                    "gateways": 1,
                    "config": {},
                }
                for target, share in ((0.9, 1.0), (0.95, 0.93), (0.99, 0.8)):
                    tail = 6 / strength + noise.random()
                    yield same | {
                        "kind": "capacity",
                        "attainment": target,
                        "qps": capacity * share,
                        "ttft_p50_s": 0.6,
                        "ttft_p90_s": 4.5,
                        "ttft_p99_s": tail,
                        "e2e_p50_s": 9.0,
                        "itl_p90_s": 0.03,
                        "hit_rate": 0.3 + 0.2 * strength,
                    }
                for step in range(4, 17, 2):
                    qps = round(TRACES[trace] * MODELS[model] * instances * step / 10, 3)
                    yield run(same, qps, capacity, noise)
    full = {
        "trace": "mooncake_conversation",
        "policy": "dualmap",
        "instances": 8,
        "model": "qwen2.5-7b-full",
        "disturbance": None,
        "slo_s": 5.0,
        "gateways": 1,
    }
    for seed in range(seeds):
        for config in ABLATIONS:
            loss = 0.97 - 0.04 * ABLATIONS.index(config)
            capacity = 13 * loss * noise.uniform(0.98, 1.02)
            same = full | {"seed": seed, "config": config, "experiment": "ablation"}
            yield same | {"kind": "capacity", "attainment": 0.9, "qps": capacity, "ttft_p99_s": 8.0}
        for name, values in CONSTANTS.items():
            for i, value in enumerate(values):
                same = full | {"seed": seed, "config": {name: value}, "experiment": "sensitivity"}
                yield run(same, 11.2, 12.6 - 0.3 * abs(i - 2) ** 1.5, noise)
        for prefill, steps, capacity in ((0, 0, 4.0), (0, 144, 7.0), (2, 0, 1.5), (6, 0, 6.0)):
            roles = {"prefill": prefill, "decode": prefill and 8 - prefill, "experiment": "roles"}
            judged = {"objective": "ttft+tpot", "tpot_s": 0.03, "step_tokens": steps}
            same = full | {"seed": seed, "config": {}} | judged | roles
            capacity *= noise.uniform(0.98, 1.02)
            yield same | {"kind": "capacity", "attainment": 0.9, "qps": capacity, "ttft_p99_s": 8.0}
    for policy in ("dualmap", "dualmap_paper", "power_of_two", "dynamo_kv"):
        for size in (8, 64, 512, 4096):
            growth = size**0.02 if "dualmap" in policy else size**0.8 / 4
            yield {
                "kind": "decision_cost",
                "experiment": "decision_cost",
                "policy": policy,
                "instances": size,
                "us": 60 * growth,
            }


def run(same: dict, qps: float, capacity: float, noise: random.Random) -> dict:
    """A run whose attainment falls through 90 % at its capacity."""
    load = qps / capacity
    attainment = 1 / (1 + (load**9) / 9) * noise.uniform(0.99, 1)
    scale = 0.25 + load**4
    quantiles = [scale * (0.1 + 1.8 * q / 100 + (q / 100) ** 30 * 6 * load) for q in range(101)]
    return same | {
        "kind": "run",
        "qps": qps,
        "requests": 4000,
        "attainment": attainment,
        "ttft_p50_s": quantiles[50],
        "ttft_p90_s": quantiles[90],
        "ttft_p99_s": quantiles[99],
        "ttft_quantiles": quantiles,
        "e2e_p50_s": 6 + 4 * load,
        "e2e_p90_s": 20 + 10 * load,
        "itl_p50_s": 0.018 + 0.003 * load,
        "itl_p90_s": 0.03 + 0.02 * load,
        "hit_rate": min(0.62, 0.3 + 0.2 / load),
        "load_skew": 1.05 + 0.3 * load,
        "preemptions": 0,
        "moves": 5,
        "failed": 0,
        "complete": True,
        "cpu_s": 3.0,
    }


def write(path: Path, seeds: int = 3) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(seeds)), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
