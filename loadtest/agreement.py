"""Live replays against virtual time: `python -m loadtest.agreement RUN [RUN ...]`.

RUN is a file of `dualmap replay`, against instances as `dualmap sim-instance` starts them. Its requests are put
through the cluster in virtual time as they were released: the same scheduler, the same prompts, the same moments. What
comes out differs only by what virtual time leaves out: HTTP, the network, the operating system.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.describe import quantile
from loadtest.formats import read_workload
from loadtest.models import load_model
from loadtest.run_file import Outcome, RunFileError, read_run
from loadtest.trace import TraceError
from loadtest.virtual_cluster import ClusterSettings, InstanceSpec, VirtualCluster
from scheduler.config import POLICY_NAMES, SchedulerConfig

TTFT_TOLERANCE = 0.1  # of the live value, at P50 and P90
HIT_TOLERANCE = 0.01  # of all prompt tokens


@dataclass(frozen=True, slots=True)
class Seen:
    """One side of a comparison. TTFT in seconds; hit_rate and busiest are shares: of prompt tokens found cached, and of
    all requests, those that the busiest instance served."""

    ttft_p50_s: float
    ttft_p90_s: float
    hit_rate: float
    busiest: float


def live(path: Path) -> tuple[str, int, Seen]:
    """The policy of the run, its number of instances, and what was seen. Raises RunFileError, ValueError."""
    header, rows = read_run(path)
    done = [row for row in rows if row.outcome is Outcome.OK and row.ttft_s is not None]
    if header.label not in POLICY_NAMES:
        raise ValueError(f"{path}: its label must name the policy it ran with, and {header.label!r} is none")
    if not done:
        raise ValueError(f"{path}: none of its requests was served")
    instances = [row.instance for row in done]
    hits = sum(row.cached_tokens or 0 for row in done) / sum(row.prompt_tokens or 0 for row in done)
    seen = _seen([row.ttft_s or 0.0 for row in done], hits, instances)
    return header.label, len(set(instances)), seen


def virtual(path: Path, policy: str, instances: int) -> Seen:
    """The same requests in virtual time. Raises TraceError."""
    workload = read_workload(path, "run")
    for request in workload.requests:
        request.answer_blocks = ()  # a replayed turn repeats the trace's answer, not the one it was given
    profile = load_model("sim-instance").profile
    settings = ClusterSettings(
        SchedulerConfig(policy=policy), [InstanceSpec(f"sim-{number}", profile) for number in range(instances)]
    )
    outcomes = VirtualCluster(workload, settings).run().outcomes
    hits = sum(o.cached_tokens for o in outcomes) / sum(r.prompt_tokens for r in workload.requests)
    return _seen([o.first_token_s - o.arrived_s for o in outcomes], hits, [o.instance_id for o in outcomes])


def agree(one: Seen, other: Seen) -> bool:
    return (
        abs(one.hit_rate - other.hit_rate) <= HIT_TOLERANCE
        and abs(one.ttft_p50_s - other.ttft_p50_s) <= TTFT_TOLERANCE * one.ttft_p50_s
        and abs(one.ttft_p90_s - other.ttft_p90_s) <= TTFT_TOLERANCE * one.ttft_p90_s
    )


def _seen(ttfts: list[float], hit_rate: float, instances: Sequence[str | None]) -> Seen:
    ttfts = sorted(ttfts)
    busiest = max(instances.count(instance) for instance in set(instances)) / len(instances)
    return Seen(quantile(ttfts, 0.5), quantile(ttfts, 0.9), hit_rate, busiest)


def main(argv: list[str] | None = None) -> int:
    """0 all agree, 1 some do not, 2 a file that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.agreement", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    runs = parser.parse_args(argv).runs
    print("| policy | | TTFT P50 s | P90 s | hit rate | busiest instance |\n|---|---|---|---|---|---|")
    agreed = True
    for path in runs:
        try:
            policy, instances, was = live(path)
            would_be = virtual(path, policy, instances)
        except (RunFileError, TraceError, ValueError) as error:
            print(f"agreement: {error}", file=sys.stderr)
            return 2
        for side, seen in (("live", was), ("virtual", would_be)):
            times = f"{seen.ttft_p50_s:.2f} | {seen.ttft_p90_s:.2f}"
            print(f"| {policy} | {side} | {times} | {seen.hit_rate:.1%} | {seen.busiest:.1%} |")
        agreed = agreed and agree(was, would_be)
    verdict = "all agree" if agreed else "not all agree"
    print(f"\n{verdict} within {TTFT_TOLERANCE:.0%} at P50 and P90, and {HIT_TOLERANCE:.0%} of hits")
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
