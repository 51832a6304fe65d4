"""CPU time of one scheduling decision, by cluster size; `python -m loadtest.decision_cost`.

A decision is RequestArrived -> Dispatch, hashing excluded; the first token and the end of each request are handled
too, untimed, so that queues stay as they would be. Prompts are chats of 12,000 tokens over 64 system prompts. Sizes
are measured in turns within one run, so that the ratios hold on a noisy machine.
"""

import argparse
import gc
import platform
import random
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median

from loadtest.study_file import DecisionCost
from loadtest.study_log import StudyLog
from scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from scheduler.blocks import hash_text, hash_trace_ids
from scheduler.config import POLICY_NAMES
from scheduler.events import FirstToken, InstanceJoined, RequestArrived, RequestFinished

SIZES = (8, 64, 512, 4096)
BLOCKS = 24
ROUND_REQUESTS = 500


class _Cluster:
    def __init__(self, size: int, seed: int, policy: str) -> None:
        self.scheduler = Scheduler(SchedulerConfig(policy=policy))
        for i in range(size):
            self.scheduler.handle(InstanceJoined(f"instance-{i}", 0, InstanceCapacity()), 0.0)
        self._random = random.Random(seed)
        self._now = 0.0
        self._sent = 0
        self._chats = [self._chat() for _ in range(256)]

    def _chat(self) -> tuple[int, ...]:
        system = self._random.randrange(64)
        own = self._random.getrandbits(48) << 8
        return hash_trace_ids([system, *(own + i for i in range(BLOCKS - 1))])

    def round(self) -> float:
        """Median CPU seconds of a decision over one round."""
        taken = []
        for _ in range(ROUND_REQUESTS):
            self._now += 0.05
            self._sent += 1
            position = self._random.randrange(len(self._chats))
            if self._random.random() < 0.3:
                self._chats[position] = self._chat()
            request = Request(str(self._sent), self._chats[position], BLOCKS * 512)
            start = time.process_time_ns()
            (_dispatch,) = self.scheduler.handle(RequestArrived(request), self._now)
            taken.append(time.process_time_ns() - start)
            self.scheduler.handle(FirstToken(request.id, 1), self._now + 0.01)
            self.scheduler.handle(RequestFinished(request.id, 1, 200), self._now + 0.02)
        return median(taken) / 1e9


def decision_costs(policies: Sequence[str], rounds: int) -> dict[tuple[str, int], float]:
    """Policy and cluster size -> median CPU seconds of a decision."""
    clusters = {(policy, size): _Cluster(size, 1, policy) for policy in policies for size in SIZES}
    for cluster in clusters.values():
        cluster.round()
    costs: dict[tuple[str, int], list[float]] = {key: [] for key in clusters}
    gc.disable()
    for done in range(rounds):
        for key, cluster in clusters.items():
            costs[key].append(cluster.round())
        print(f"\rround {done + 1}/{rounds}", end="", file=sys.stderr, flush=True)
    gc.enable()
    print(file=sys.stderr)
    return {key: median(taken) for key, taken in costs.items()}


def hash_cost(prompt_bytes: int, rounds: int) -> float:
    """Median CPU seconds to hash a prompt into blocks of 2 KiB."""
    prompt = random.Random(1).randbytes(prompt_bytes)
    taken = []
    for _ in range(rounds * 20):
        start = time.process_time_ns()
        hash_text(prompt, 2048)
        taken.append(time.process_time_ns() - start)
    return median(taken) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest.decision_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help=f"rounds of {ROUND_REQUESTS} requests a cluster size")
    parser.add_argument("--policy", default="dualmap", metavar="A,B", help="policies to measure")
    parser.add_argument("--study", type=Path, metavar="FILE", help="add the result to a study, for its report")
    args = parser.parse_args()
    policies = args.policy.split(",")
    if unknown := sorted(set(policies) - set(POLICY_NAMES)):
        parser.error(f"--policy must be of {', '.join(POLICY_NAMES)}, not {', '.join(unknown)}")
    costs = decision_costs(policies, args.rounds)
    if args.study is not None:
        with StudyLog(args.study, resume=True) as log:
            for (policy, size), cost in costs.items():
                log.add(DecisionCost(policy=policy, instances=size, us=round(cost * 1e6, 1)))
    print(f"{date.today()}, {platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print("| policy | instances | a decision, us | against 8 |")
    print("|---|---|---|---|")
    for (policy, size), cost in costs.items():
        print(f"| {policy} | {size:,} | {cost * 1e6:.1f} | {cost / costs[policy, SIZES[0]]:.2f} |")
    print(f"\nA prompt of 48 KB is hashed in {hash_cost(48_000, args.rounds) * 1e6:.1f} us.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
