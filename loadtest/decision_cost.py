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
from datetime import date
from statistics import median

from scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from scheduler.blocks import hash_text, hash_trace_ids
from scheduler.events import FirstToken, InstanceJoined, RequestArrived, RequestFinished

SIZES = (8, 64, 512, 4096)
BLOCKS = 24
ROUND_REQUESTS = 500


class _Cluster:
    def __init__(self, size: int, seed: int) -> None:
        self.scheduler = Scheduler(SchedulerConfig())
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


def decision_costs(rounds: int) -> dict[int, float]:
    """Cluster size -> median CPU seconds of a decision."""
    clusters = {size: _Cluster(size, seed=1) for size in SIZES}
    for cluster in clusters.values():
        cluster.round()
    costs: dict[int, list[float]] = {size: [] for size in SIZES}
    gc.disable()
    for done in range(rounds):
        for size, cluster in clusters.items():
            costs[size].append(cluster.round())
        print(f"\rround {done + 1}/{rounds}", end="", file=sys.stderr, flush=True)
    gc.enable()
    print(file=sys.stderr)
    return {size: median(taken) for size, taken in costs.items()}


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
    rounds = parser.parse_args().rounds
    costs = decision_costs(rounds)
    print(f"{date.today()}, {platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print("| instances | a decision, us | against 8 |")
    print("|---|---|---|")
    for size, cost in costs.items():
        print(f"| {size:,} | {cost * 1e6:.1f} | {cost / costs[SIZES[0]]:.2f} |")
    print(f"\nA prompt of 48 KB is hashed in {hash_cost(48_000, rounds) * 1e6:.1f} us.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
