"""CPU time of one scheduling decision, by cluster size; `python -m dualmap.loadtest.study.decision_cost`.

A decision is RequestArrived -> Dispatch, hashing excluded; the first token and the end of each request are handled
too, untimed, so that queues stay as they would be. Prompts are chats of 12,000 tokens over 64 system prompts. Sizes
are measured in turns within one run, so that the ratios hold on a noisy machine. `cells` is the choice of a cell of up
to 64 instances, and the default policy's decision in it.
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

from dualmap.loadtest.study.file import DecisionCost
from dualmap.loadtest.study.log import StudyLog
from dualmap.router.config.installed_policies import register_installed_policies
from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig, policy_names
from dualmap.scheduler.blocks import hash_text, hash_trace_ids
from dualmap.scheduler.cells import CellLoad, CellRouter
from dualmap.scheduler.events import FirstToken, InstanceJoined, RequestArrived, RequestFinished

SIZES = (8, 64, 512, 4096)
BLOCKS = 24
ROUND_REQUESTS = 500
CELLS = "cells"
CELL_INSTANCES = 64


def _core(size: int, policy: str) -> Scheduler:
    core = Scheduler(SchedulerConfig(policy=policy))
    for i in range(size):
        core.handle(InstanceJoined(f"instance-{i}", 0, InstanceCapacity()), 0.0)
    return core


def _end(core: Scheduler, request: Request, now: float) -> None:
    core.handle(FirstToken(request.id, 1), now + 0.01)
    core.handle(RequestFinished(request.id, 1, 200), now + 0.02)


class _Flat:
    def __init__(self, size: int, policy: str) -> None:
        self._core = _core(size, policy)

    def decide(self, request: Request, now: float) -> None:
        (_dispatch,) = self._core.handle(RequestArrived(request), now)

    def end(self, request: Request, now: float) -> None:
        _end(self._core, request, now)


class _Cells:
    """The core of one cell stands for all: in a deployment each is a process of its own, and so is what chooses it."""

    def __init__(self, size: int) -> None:
        self._core = _core(min(size, CELL_INSTANCES), "dualmap")
        self._router = CellRouter()
        self._names = [str(number) for number in range(-(-size // CELL_INSTANCES))]
        for name in self._names:
            self._router.join(name, len(self._core.instances), 0.0)

    def decide(self, request: Request, now: float) -> None:
        self._router.choose(request.blocks, request.id, now)
        (_dispatch,) = self._core.handle(RequestArrived(request), now)

    def end(self, request: Request, now: float) -> None:
        _end(self._core, request, now)
        for name in self._names:
            self._router.report(name, CellLoad(len(self._core.instances)), now)


class _Cluster:
    def __init__(self, size: int, seed: int, policy: str) -> None:
        self._decides = _Cells(size) if policy == CELLS else _Flat(size, policy)
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
            self._decides.decide(request, self._now)
            taken.append(time.process_time_ns() - start)
            self._decides.end(request, self._now)
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
    parser = argparse.ArgumentParser(
        prog="python -m dualmap.loadtest.study.decision_cost", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=20, help=f"rounds of {ROUND_REQUESTS} requests a cluster size")
    parser.add_argument("--policy", default="dualmap", metavar="A,B", help=f"policies to measure, or {CELLS}")
    parser.add_argument("--study", type=Path, metavar="FILE", help="add the result to a study, for its report")
    args = parser.parse_args()
    policies = args.policy.split(",")
    register_installed_policies()
    if unknown := sorted(set(policies) - {*policy_names(), CELLS}):
        parser.error(f"--policy must be of {', '.join(policy_names())}, {CELLS}, not {', '.join(unknown)}")
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
