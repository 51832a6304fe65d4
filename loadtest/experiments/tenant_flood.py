"""What a tenant notices of another that floods the cluster, in virtual time.

    python -m dualmap.loadtest.experiments.tenant_flood

Nothing is cached, so that each prompt is its own work. The quiet tenant asks for a part of what the instances compute,
the other for three times all of it.
"""

import argparse
import os
import random
import sys
from datetime import date
from itertools import count
from math import inf

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings, InstanceSpec
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.request import Request

PROFILE = EngineProfile()
LONGEST_TOKENS = 8000

Arrival = tuple[float, str, int, int]  # seconds, tenant, prompt and answer in tokens
Lengths = tuple[tuple[int, int], tuple[int, int]]  # least and most tokens of prompts, and of answers

CHATS: Lengths = ((200, 1800), (50, 400))
QUIET: Lengths = ((2000, LONGEST_TOKENS), (50, 300))


def arrivals(
    tenant: str,
    instances_worth: float,
    prompt_tokens: tuple[int, int],
    output_tokens: tuple[int, int],
    seed: int,
    duration_s: float = 240.0,
) -> list[Arrival]:
    """At random, and so many that their prompts are all that so many instances compute."""
    rng = random.Random(f"{tenant}-{seed}")
    rate = instances_worth / PROFILE.prefill_s_per_token / (sum(prompt_tokens) / 2)
    found: list[Arrival] = []
    now = rng.expovariate(rate)
    while now < duration_s:
        found.append((now, tenant, rng.randint(*prompt_tokens), rng.randint(*output_tokens)))
        now += rng.expovariate(rate)
    return found


def p90_ttft_s(*streams: list[Arrival], of: str, instances: int = 1, told_apart: bool = True) -> float:
    """Rejected requests count as never answered."""
    numbers = count(1)
    requests = []
    ordered = sorted(arrival for stream in streams for arrival in stream)
    for index, (at_s, tenant, prompt_tokens, output_tokens) in enumerate(ordered):
        blocks = tuple(next(numbers) for _ in range(prompt_tokens // 512))
        told = Request(
            str(index), blocks, prompt_tokens, max_output_tokens=output_tokens, tenant=tenant if told_apart else ""
        )
        requests.append(WorkRequest(at_s, prompt_tokens, output_tokens, blocks, session=index, told=told))
    specs = [InstanceSpec(f"i{number}", PROFILE) for number in range(instances)]
    done = VirtualCluster(Workload("tenants", requests), ClusterSettings(SchedulerConfig(), specs)).run()
    ttfts_s = sorted(
        outcome.first_token_s - outcome.arrived_s if outcome.ok else inf
        for outcome, arrival in zip(done.outcomes, ordered, strict=True)
        if arrival[1] == of
    )
    return ttfts_s[int(0.9 * len(ttfts_s))]


def added_wait(instances: int, flood: Lengths, seed: int, duration_s: float) -> tuple[float, float]:
    """The quiet tenant's P90 alone, and beside the flood, in seconds."""
    alone = arrivals("quiet", 0.15 * instances, *QUIET, seed, duration_s)
    crowd = arrivals("flood", 3.0 * instances, *flood, seed, duration_s)
    return p90_ttft_s(alone, of="quiet", instances=instances), p90_ttft_s(alone, crowd, of="quiet", instances=instances)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dualmap.loadtest.experiments.tenant_flood")
    parser.add_argument("--seeds", type=int, default=3, metavar="K", help="runs of each (3)")
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="of each run (120)")
    args = parser.parse_args(argv)
    rows = [("", "P90 alone", "beside the flood", "ratio", "least", "most")]
    for name, flood in (("chats", CHATS), ("long prompts", QUIET)):
        for instances in (1, 4):
            runs = [added_wait(instances, flood, seed + 1, args.seconds) for seed in range(args.seeds)]
            alone, beside = (sum(times) / len(runs) for times in zip(*runs, strict=True))
            ratios = [after / before for before, after in runs]
            title = f"{name}, {instances} instance{'s' if instances > 1 else ''}"
            numbers = (f"{beside / alone:.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}")
            rows.append((title, f"{alone:.2f} s", f"{beside:.2f} s", *numbers))
    print(f"{date.today().isoformat()}, {os.cpu_count()} cores, virtual time, a flood of:\n")
    print("\n".join(aligned(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
