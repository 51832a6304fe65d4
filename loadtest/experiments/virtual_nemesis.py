"""Seeded schedules of blows in virtual time, each judged by its histories:
`python -m dualmap.loadtest.experiments.virtual_nemesis --schedules 200`.

Instances are killed, hang, slow down, drain, change their roles and join again, gateways and Fleet die and come back,
news come late and twice. A schedule that fails is printed with its seed, and fails again with it.
"""

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import cycle, product

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.histories.faults import Fault, Rule
from dualmap.loadtest.histories.journals import judge
from dualmap.loadtest.histories.rows import row_faults
from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings, InstanceSpec
from dualmap.loadtest.virtual.schedule import Schedule, draw_schedule
from dualmap.loadtest.virtual.struck import StruckCluster
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.role import Role

SECONDS = 60.0
QPS_EACH = 1.2  # of an instance, which bears about twice that
CHECK_EVERY = 50  # events of a core
SHOWN = 5  # faults of a schedule
WITH_ROLES = 4  # of so many schedules, one has instances that prefill and instances that decode
WITH_REVISIONS = 4  # from so many instances on, these have two revisions


@dataclass(frozen=True, slots=True)
class Struck:
    """How a schedule went. ends: of requests, as their clients saw them."""

    schedule: Schedule
    ends: Counter[str]
    continued: int
    events: int
    faults: list[Fault]


def strike(seed: int, policy: str = "dualmap", seconds: float = SECONDS) -> Struck:
    """One schedule, and what is wrong with what came of it."""
    rng = random.Random(seed)
    ids = [f"sim-{number}" for number in range(rng.choice((2, 4, 6)))]
    gateways = rng.choice((1, 2, 3))
    has_roles = seed % WITH_ROLES == 0
    revisions = ("",) if not has_roles or len(ids) < WITH_REVISIONS else ("old", "new")
    roles = (Role.PREFILL, Role.DECODE) if has_roles else (Role.BOTH,)
    schedule = draw_schedule(seed, ids, gateways, seconds, revisions if has_roles else ())
    settings = ClusterSettings(
        SchedulerConfig(policy=policy, ttft_slo_s=2.0),
        [
            InstanceSpec(instance_id, EngineProfile(), role=role, revision=revision)
            for instance_id, (revision, role) in zip(ids, cycle(product(revisions, roles)))
        ],
        gateways=gateways,
    )
    cluster = StruckCluster(_chats(rng, seconds, QPS_EACH * len(ids)), settings, schedule, CHECK_EVERY)
    try:
        cluster.run()
        faults = []
    except Exception as error:  # of the core, or of its books: a schedule that ends so is told like any other
        faults = [Fault(Rule.NO_ERROR, "", f"{type(error).__name__}: {error}")]
    judged = [judge(history) for history in cluster.histories]
    faults += [fault for one in judged for fault in one.faults]
    if not faults:
        faults = row_faults(cluster.rows, judged)
    missing = {request.index for request in cluster.rows} ^ set(range(len(cluster.workload.requests)))
    faults += [Fault(Rule.ENDS_ONCE, str(index), "has no end for its client") for index in sorted(missing)[:SHOWN]]
    return Struck(
        schedule,
        Counter(f"{row.outcome} ({row.detail})" if row.detail else str(row.outcome) for row in cluster.rows),
        sum(life.continued for one in judged for life in one.lives.by_id.values()),
        sum(len(history.records) for history in cluster.histories),
        faults,
    )


def _chats(rng: random.Random, seconds: float, qps: float) -> Workload:
    """A third of the prompts begin alike."""
    found: list[WorkRequest] = []
    at_s = 0.0
    while at_s < seconds:
        number = len(found)
        own = tuple(1000 * (number + 1) + place for place in range(rng.randint(1, 12)))
        blocks = (7, *own) if number % 3 == 0 else own
        tokens = len(blocks) * 512 + rng.randint(0, 500)
        found.append(WorkRequest(at_s, tokens, rng.randint(1, 300), blocks, session=number))
        at_s += rng.expovariate(qps)
    return Workload("chats", found)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the first schedule (0)")
    parser.add_argument("--schedules", type=int, default=200, metavar="N", help="how many, with seeds from S on (200)")
    parser.add_argument("--policy", default="dualmap", metavar="NAME", help="(dualmap)")


def run(args: argparse.Namespace) -> int:
    """1 if something is wrong with a schedule."""
    began_s, ends, continued, events, failed = time.monotonic(), Counter[str](), 0, 0, 0
    for seed in range(args.seed, args.seed + args.schedules):
        struck = strike(seed, args.policy)
        ends += struck.ends
        continued += struck.continued
        events += struck.events
        if struck.faults:
            failed += 1
            print(struck.schedule)
            for fault in struck.faults[:SHOWN]:
                print(f"    {fault}", flush=True)
    told = ", ".join(f"{count} {end}" for end, count in ends.most_common())
    print(f"{args.schedules} schedules of {SECONDS:g} s in {time.monotonic() - began_s:.0f} s, {events} events")
    print(f"requests: {told}; {continued} times an answer went on elsewhere")
    print(f"{failed} schedules with faults")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
