"""Arguments of `dualmap simulate`, and those that `dualmap plan` has, too."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from dualmap.instances.simulated.engine_profile import OFFLOAD_S_PER_TOKEN
from dualmap.loadtest.formats import FORMATS
from dualmap.loadtest.virtual.models import MODELS
from dualmap.loadtest.virtual.objectives import OBJECTIVES, TPOT_S, TTFT

if TYPE_CHECKING:
    from dualmap.loadtest.virtual.simulated_workload import Setup

EXAMPLES = (
    "dualmap simulate synth:hot --qps 8,12,16 --policy dualmap,round_robin --bound",
    "dualmap simulate trace.jsonl --capacity --attainment 0.9,0.99 --instances 8,16 --seeds 3 --jobs 8",
    "dualmap simulate trace.jsonl --qps 12 --objective ttft+tpot --slo 2 --tpot 0.05 --model full --network-ms 1",
    "dualmap simulate trace.jsonl --format mooncake --qps 12 --limit 4000 --warmup 500 --max-input-tokens 8192",
    "dualmap simulate synth:hot --qps 12 --scale 2-8 --start-s 60 --disturbance none --gateways 2 --cells 1",
    "dualmap simulate trace.jsonl --capacity --prefill 2 --decode 6 --objective ttft+tpot --tpot 0.05",
    "dualmap simulate trace.jsonl --capacity --max-num-batched-tokens 144 --objective ttft+tpot --tpot 0.03",
    "dualmap simulate trace.jsonl --qps 6 --prefill 2-6 --decode 2-6 --objective ttft+tpot --tpot 0.05",
    "dualmap simulate trace.jsonl --qps 6 --prefill 6 --decode 2 --change-roles --objective ttft+tpot --tpot 0.05",
    "dualmap simulate synth:hot --qps 12 --set max_moves=4 --journal runs/journal.jsonl.gz",
    "dualmap simulate trace.jsonl --qps 12 --cpu-cache-tokens 2000000 --kv-events tiers",
    "dualmap simulate trace.jsonl --qps 12 --cpu-cache-tokens 2000000 --cpu-load-tokens-per-s 50000 --cpu-cache-shared",
    "dualmap simulate synth:hot --qps 8,12 --out runs/study.jsonl --resume",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_work(parser.add_argument_group("work"))
    _add_load(parser.add_argument_group("load"))
    _add_cluster(parser.add_argument_group("cluster"))
    _add_output(parser.add_argument_group("runs and output"))


def _add_work(group: "argparse._ArgumentGroup") -> None:
    add_trace(group)
    add = group.add_argument
    add("--limit", type=int, default=8000, metavar="N", help="requests, for up to 8 instances (default %(default)s)")
    add("--warmup", type=int, default=500, metavar="N", help="requests that are not counted (default %(default)s)")


def add_trace(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "trace",
        metavar="TRACE",
        help="a trace file, a directory of agent sessions, or synth:hot, hot-short, hot-60, low-reuse",
    )
    add("--format", choices=("auto", *FORMATS), default="auto", help="of the trace (default: told by its content)")
    add(
        "--max-input-tokens",
        type=int,
        default=20480,
        metavar="TOKENS",
        help="leave out longer prompts; 0: none (default %(default)s)",
    )


def _add_load(group: "argparse._ArgumentGroup") -> None:
    load = group.add_mutually_exclusive_group(required=True)
    load.add_argument(
        "--qps", metavar="QPS,...", help="requests per second over the whole cluster (this or --capacity)"
    )
    load.add_argument("--capacity", action="store_true", help="look for the highest rate that keeps the objective")
    add = group.add_argument
    add(
        "--attainment",
        default="0.9,0.95,0.99",
        metavar="SHARE,...",
        help="of requests within the objective, that --capacity looks for (default %(default)s)",
    )
    add_objective(group, TTFT)


def add_objective(group: "argparse._ArgumentGroup", objective: str) -> None:
    """objective: by default."""
    add = group.add_argument
    add("--objective", choices=OBJECTIVES, default=objective, help="what makes a request count (default %(default)s)")
    add("--slo", type=float, default=5.0, metavar="SECONDS", help="to the first token (default %(default)g)")
    add(
        "--tpot",
        type=float,
        default=TPOT_S,
        metavar="SECONDS",
        help="for each output token, of the objective ttft+tpot (default %(default)g)",
    )


def _add_cluster(group: "argparse._ArgumentGroup") -> None:
    size = group.add_mutually_exclusive_group()
    size.add_argument("--instances", default="8", metavar="N,...", help="sizes of the cluster (default %(default)s)")
    size.add_argument(
        "--scale",
        metavar="MIN-MAX",
        help="instances as the load needs them, by the plans of `dualmap up` (default: none)",
    )
    size.add_argument(
        "--prefill",
        metavar="N|MIN-MAX",
        help="instances that compute prompts for those of --decode, in place of --instances; MIN-MAX: as their load"
        " needs them (default: each does both)",
    )
    add = group.add_argument
    add("--decode", metavar="N|MIN-MAX", help="instances that answer, with --prefill (default: none)")
    add(
        "--change-roles",
        action="store_true",
        help="instances change their roles as the load needs them (default: they stay)",
    )
    add(
        "--cpu-cache-tokens",
        type=int,
        default=0,
        metavar="TOKENS",
        help="KV in a tier behind each instance's KV cache, in the host's memory (default: as the model has it)",
    )
    add(
        "--cpu-load-tokens-per-s",
        type=float,
        default=1 / OFFLOAD_S_PER_TOKEN,
        metavar="TOKENS",
        help="that an instance reads back from that tier (default %(default).0f)",
    )
    add(
        "--cpu-cache-shared",
        action="store_true",
        help="one tier for all instances, as large as all of theirs (default: each has its own)",
    )
    add(
        "--kv-events",
        choices=("none", "blocks", "tiers"),
        default="none",
        help="instances tell which blocks they have, or in which tier, too (default: neither)",
    )
    add(
        "--max-num-batched-tokens",
        type=int,
        default=0,
        metavar="TOKENS",
        help="that an instance computes in a step, and no more requests at once (default: as the model has it)",
    )
    add(
        "--start-s",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="until an instance of --scale, MIN-MAX or --change-roles has started (default %(default)g)",
    )
    add_model(group)
    add(
        "--policy",
        default="dualmap",
        metavar="NAME,...",
        help="policies to compare, or all, those of installed packages too (default %(default)s)",
    )
    add("--bound", action="store_true", help="also the upper bound: one cache shared by all, one queue (default: no)")
    add_settings(group)
    add("--gateways", type=int, default=1, metavar="N", help="gateways that share the cluster (default %(default)s)")
    add(
        "--cells",
        type=int,
        default=1,
        metavar="N",
        help="cells that the cluster is divided into, chosen by prefix; 1: none (default %(default)s)",
    )
    add("--disturbance", default="none", metavar="NAME", help="what goes wrong: a name or a file (default %(default)s)")


def add_model(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--model",
        default="full",
        metavar="NAME",
        help=f"{', '.join(MODELS)}, or a profile's file (default %(default)s)",
    )


def add_settings(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the scheduler; repeatable (default: none)",
    )
    add(
        "--network-ms",
        type=float,
        default=0.5,
        metavar="MS",
        help="milliseconds from gateway to instance (default %(default)g)",
    )


def _add_output(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="runs of each, with other names and arrivals (default %(default)s)",
    )
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one for each core)")
    add("--out", type=Path, metavar="FILE", help="also write all rows, for `dualmap report` (default: none)")
    add("--resume", action="store_true", help="go on with the file of --out, without what it has (default: begin)")
    add(
        "--journal",
        type=Path,
        metavar="FILE",
        help="write the scheduler's events, for `dualmap replay-journal` (default: none)",
    )


def check_least(args: argparse.Namespace, least: float, *names: str) -> None:
    """Raises ValueError with the first option that is below. None is as good as left out."""
    for name in names:
        given = getattr(args, name)
        if given is not None and not given >= least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, not {given}")


def check_above_0(args: argparse.Namespace, *names: str) -> None:
    """Raises ValueError."""
    for name in names:
        if not getattr(args, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, not {getattr(args, name)}")


def setup_of(args: argparse.Namespace) -> "Setup":
    """What add_trace, add_model, add_objective and add_settings were given. Raises ValueError."""
    from dualmap.loadtest.virtual.simulated_workload import Setup

    check_least(args, 0, "max_input_tokens", "network_ms")
    check_above_0(args, "slo", "tpot")
    return Setup(
        args.trace,
        format=args.format,
        model=args.model,
        network_s=args.network_ms / 1000,
        slo_s=args.slo,
        objective=args.objective,
        tpot_s=args.tpot,
        max_prompt_tokens=args.max_input_tokens,
    )
