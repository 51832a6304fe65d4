"""`dualmap trace synth`, `dualmap trace describe` and `dualmap trace convert`."""

import argparse
import sys
from typing import TYPE_CHECKING

from dualmap.loadtest.formats import FORMATS

if TYPE_CHECKING:
    from dualmap.loadtest.traces.workload import Workload
EXAMPLES = (
    "dualmap trace describe trace.jsonl --format mooncake",
    "dualmap trace synth --out chats.jsonl --requests 5000 --qps 6 --seed 2",
    "dualmap trace synth --out chats.jsonl --system-prompts 4 --zipf 0 --mean-turns 8 --max-input-tokens 8192",
    "dualmap trace convert sessions/ trace.jsonl --format weka --limit 4000 --max-input-tokens 20480",
    "dualmap trace convert trace.jsonl twice.jsonl --copies 2 --sessions 500 --qps 8 --seed 1",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="trace_command", required=True, metavar="COMMAND")
    for name, summary, add in (
        ("synth", "write a synthetic chat trace in the Mooncake format", _add_synth),
        ("describe", "lengths, arrivals, sessions and reuse of a trace", _add_input),
        ("convert", "write a trace of any known format in the Mooncake format", _add_convert),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(parser=command)
        add(command)


def _add_synth(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("--out", required=True, metavar="FILE", help="where to write it, as JSONL (required)")
    add = parser.add_argument_group("chats").add_argument
    add("--requests", type=int, default=2000, metavar="N", help="how many requests (default %(default)s)")
    add("--seed", type=int, default=1, metavar="N", help="same seed, same trace (default %(default)s)")
    add("--qps", type=float, default=3.4, metavar="QPS", help="mean requests per second (default %(default)g)")
    add(
        "--system-prompts",
        type=int,
        default=16,
        metavar="N",
        help="different system prompts, which chats share (default %(default)s)",
    )
    add(
        "--zipf", type=float, default=1.0, metavar="S", help="skew of their popularity, 0 is even (default %(default)g)"
    )
    add("--mean-turns", type=float, default=4.0, metavar="N", help="turns of a chat (default %(default)g)")
    add("--max-input-tokens", type=int, default=20480, metavar="TOKENS", help="longest prompt (default %(default)s)")


def _add_input(parser: argparse.ArgumentParser) -> None:
    read = parser.add_argument_group("input")
    read.add_argument("trace", metavar="TRACE", help="a trace file, or a directory of agent sessions")
    read.add_argument(
        "--format", choices=("auto", *FORMATS), default="auto", help="of the trace (default: told by its content)"
    )


def _add_convert(parser: argparse.ArgumentParser) -> None:
    _add_input(parser)
    output = parser.add_argument_group("output")
    output.add_argument("out", metavar="OUT", help="where to write it, as JSONL")
    add = parser.add_argument_group("what becomes of it").add_argument
    add("--limit", type=int, metavar="N", help="only the first N requests (default: all)")
    add("--max-input-tokens", type=int, metavar="TOKENS", help="leave out longer prompts (default: none)")
    add(
        "--sessions",
        type=int,
        metavar="N",
        help="draw N sessions with replacement, starting at random times (default: those of the trace)",
    )
    add("--copies", type=int, metavar="N", help="lay N copies with their own sessions over each other (default: one)")
    add("--qps", type=float, metavar="QPS", help="mean requests per second (default: those of the trace)")
    add("--seed", type=int, default=0, metavar="N", help="for all that is drawn (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """0, or 2 with a line on stderr for a file or a value that cannot be used."""
    from dualmap.loadtest.formats import read_workload
    from dualmap.loadtest.formats.mooncake import to_trace
    from dualmap.loadtest.traces.describe import describe
    from dualmap.loadtest.traces.synth import SynthConfig, synthesise
    from dualmap.loadtest.traces.trace import write_trace

    try:
        if args.trace_command == "synth":
            config = SynthConfig(
                requests=args.requests,
                seed=args.seed,
                qps=args.qps,
                system_prompts=args.system_prompts,
                zipf=args.zipf,
                mean_turns=args.mean_turns,
                max_input_tokens=args.max_input_tokens,
            )
            requests = synthesise(config)
        else:
            workload = read_workload(args.trace, args.format)
            if args.trace_command == "convert":
                workload = _scaled(workload, args)
            requests = to_trace(workload)
        if args.trace_command != "describe":
            write_trace(args.out, requests)
            print(f"{len(requests)} requests written to {args.out}")
    except (ValueError, OSError) as error:
        print(f"dualmap trace: {error}", file=sys.stderr)
        return 2
    for what, value in describe(requests):
        print(f"{what:>17}  {value}")
    if args.trace_command != "synth" and any(r.after is not None for r in workload.requests):
        print(f"{'sessions':>17}  {len({r.session for r in workload.requests}):,} named by the trace")
    return 0


def _scaled(workload: "Workload", args: argparse.Namespace) -> "Workload":
    """Cut first, then multiplied, then brought to the rate. Raises ValueError."""
    from dualmap.loadtest.traces.workload_scale import at_rate, copies, limit, resample_sessions

    for name in ("limit", "max_input_tokens", "sessions", "copies"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {value}")
    workload = limit(workload, args.limit, max_prompt_tokens=args.max_input_tokens)
    if not workload.requests:
        raise ValueError(f"{args.trace}: no prompt of at most {args.max_input_tokens} tokens")
    if args.sessions is not None:
        workload = resample_sessions(workload, args.sessions, args.seed)
    if args.copies is not None:
        workload = copies(workload, args.copies, args.seed)
    return workload if args.qps is None else at_rate(workload, args.qps)
