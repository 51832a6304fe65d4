"""A day of load with a kill every two minutes, in virtual time: `python -m dualmap.loadtest.experiments.virtual_soak`.

Gateways on the production core and Fleet's core serve synthetic chats on simulated instances at half of what these
could, while one instance after the other is lost with its cache and comes back. Every table that can be reached from
the cores is counted, whatever it is called: of each kind its entries, all objects of that kind together.
"""

import argparse
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from datetime import date
from pathlib import Path
from time import process_time
from typing import Any

from dualmap.loadtest.cli.demo import WORKLOAD
from dualmap.loadtest.cli.replay import positive
from dualmap.loadtest.experiments.drift import HOUR_S, drift, markdown, page, rows
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.formats.mooncake import from_trace
from dualmap.loadtest.traces.load_level import round_robin_qps
from dualmap.loadtest.traces.synth import synthesise
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_settings import Change, ClusterSettings, InstanceSpec
from dualmap.loadtest.virtual.models import load_model
from dualmap.scheduler import InstanceCapacity, SchedulerConfig

HALF = 0.5  # of capacity
AWAY_S = 20.0  # from a loss until the instance is back
SAMPLES = 200
WARM_SHARE = 0.25  # of the time, in which caches and windows fill
PACKAGE = "dualmap."


def table_sizes(roots: Sequence[object]) -> Counter[str]:
    """Entries of dictionaries, sets, lists and queues, by the class and the attribute that hold them."""
    sizes: Counter[str] = Counter()
    seen: set[int] = set()
    left = deque(roots)
    while left:
        thing = left.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        for name, value in _attributes(thing):
            for place, table in _tables(f"{type(thing).__name__}.{name}", value):
                if id(table) in seen:
                    continue
                seen.add(id(table))
                sizes[place] += len(table)
                values = table.values() if isinstance(table, dict) else table
                left.extend(one for one in values if _is_ours(one))
            if _is_ours(value):
                left.append(value)
    return sizes


def _tables(place: str, value: object) -> Iterator[tuple[str, Any]]:
    """The value if it is a table, and tables within it."""
    if isinstance(value, dict | AbstractSet | list | deque):
        yield place, value
        inner = value.values() if isinstance(value, dict) else value
        for one in inner:
            yield from _tables(f"{place}[]", one)


def _is_ours(thing: object) -> bool:
    """An object with tables of its own: a record is what tables are full of."""
    return type(thing).__module__.startswith(PACKAGE) and not _is_record(thing)


def _is_record(thing: object) -> bool:
    return is_dataclass(thing) and not any(
        isinstance(getattr(thing, field.name, None), dict | set | list | deque) for field in fields(thing)
    )


def _attributes(thing: object) -> Iterator[tuple[str, object]]:
    names = dict.fromkeys(getattr(thing, "__dict__", ()))
    for cls in type(thing).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names |= dict.fromkeys((slots,) if isinstance(slots, str) else slots)
    for name in names:
        if not name.startswith("__"):
            yield name.lstrip("_"), getattr(thing, name, None)


def cluster_of(args: argparse.Namespace, seconds: float) -> tuple[VirtualCluster, float]:
    """And its requests a second."""
    profile, capacity = load_model("sim-instance").profile, InstanceCapacity()
    prefill_s = 1 / capacity.prefill_tokens_per_s
    sample = synthesise(replace(WORKLOAD, qps=1.0, requests=2000))
    qps = round_robin_qps(sample, args.instances, prefill_s, kv_tokens=capacity.kv_tokens, share=HALF)
    trace = synthesise(replace(WORKLOAD, qps=qps, requests=max(round(qps * seconds), 1)))
    names = [f"i{number}" for number in range(args.instances)]
    kills = [(at, names[place % len(names)]) for place, at in enumerate(_moments(args.kill_every, seconds))]
    changes = [Change(at, "lose", name) for at, name in kills]
    changes += [Change(at + AWAY_S, "join", name) for at, name in kills]
    specs = [InstanceSpec(name, profile) for name in names]
    settings = ClusterSettings(SchedulerConfig(), specs, gateways=args.gateways, changes=changes)
    return VirtualCluster(from_trace(trace, name="soak"), settings), qps


def _moments(every_s: float, seconds: float) -> Iterator[float]:
    at = every_s
    while at + AWAY_S < seconds:
        yield at
        at += every_s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hours", type=positive, default=24.0, metavar="H", help="in virtual time (24)")
    parser.add_argument("--kill-every", type=positive, default=120.0, metavar="S", help="virtual seconds (120)")
    parser.add_argument("--instances", type=int, default=4, metavar="N", help="simulated instances (4)")
    parser.add_argument("--gateways", type=int, default=2, metavar="N", help="on one Fleet (2)")
    parser.add_argument("--out", type=Path, default=Path("runs/virtual-soak"), metavar="DIR", help="for its files")


def run(args: argparse.Namespace) -> int:
    """1 if something grows. Ctrl-C ends it early."""
    seconds = args.hours * HOUR_S
    cluster, qps = cluster_of(args, seconds)
    series: dict[str, list[tuple[float, float]]] = {}

    def sample() -> None:
        now = cluster.clock.now
        sizes = table_sizes(cluster.kept())
        for name in (*sizes, *(series.keys() - sizes.keys())):
            series.setdefault(name, []).append((now, sizes[name]))

    for number in range(SAMPLES):
        cluster.clock.at(seconds * number / SAMPLES, sample)
    begun_s = process_time()
    with suppress(KeyboardInterrupt):  # what has been sampled by then is told
        cluster.run()
    sample()
    for core in cluster.cores:
        core.check()
    ended_s = cluster.clock.now
    came = [outcome for outcome in cluster.outcomes if outcome.arrived_s <= ended_s]
    ok = sum(outcome.ok for outcome in came)
    retries = sum(core.stats.retries for core in cluster.cores)
    cpu_min = (process_time() - begun_s) / 60
    lead = (
        f"{date.today().isoformat()}, {ended_s / HOUR_S:.1f} h in virtual time ({cpu_min:.1f} min of CPU), "
        f"{args.gateways} gateways, {args.instances} instances, {len(came)} requests at {qps:.2f} a "
        f"second, a loss each {args.kill_every:g} s: {ok} whole, {retries} run again elsewhere, "
        f"{len(came) - ok} failed or under way."
    )
    drifts = [drift(name, points, WARM_SHARE * ended_s) for name, points in sorted(series.items())]
    text = f"{lead}\n\n{markdown(rows(one for one in drifts if one.most))}\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "virtual-soak.md").write_text(text)
    (args.out / "virtual-soak.html").write_text(page("A day in virtual time", lead, series))
    print(text)
    growing = [one.name for one in drifts if one.grows]
    if growing:
        print(f"these grow: {', '.join(growing)}", file=sys.stderr)
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
