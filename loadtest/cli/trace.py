"""`dualmap trace synth`, `dualmap trace describe` and `dualmap trace convert`."""

import argparse
import sys
from typing import TYPE_CHECKING

from dualmap.loadtest.formats import FORMATS

if TYPE_CHECKING:
    from dualmap.loadtest.traces.workload import Workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="trace_command", required=True, metavar="COMMAND")
    synth = commands.add_parser("synth", help="write a synthetic chat trace in the Mooncake format")
    synth.add_argument("--out", required=True, metavar="FILE", help="where to write it (JSONL)")
    synth.add_argument("--requests", type=int, default=2000, metavar="N", help="how many requests (default 2000)")
    synth.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same trace (default 1)")
    synth.add_argument("--qps", type=float, default=3.4, metavar="Q", help="mean requests per second (default 3.4)")
    synth.add_argument(
        "--system-prompts", type=int, default=16, metavar="N", help="different shared system prompts (default 16)"
    )
    synth.add_argument(
        "--zipf", type=float, default=1.0, metavar="S", help="skew of their popularity, 0 is even (default 1.0)"
    )
    synth.add_argument("--mean-turns", type=float, default=4.0, metavar="N", help="turns of a chat (default 4)")
    synth.add_argument(
        "--max-input-tokens", type=int, default=20480, metavar="N", help="longest prompt (default 20480)"
    )
    show = commands.add_parser("describe", help="lengths, arrivals, sessions and reuse of a trace")
    _add_input(show)
    convert = commands.add_parser("convert", help="write a trace of any known format in the Mooncake format")
    _add_input(convert)
    convert.add_argument("out", metavar="OUT", help="where to write it (JSONL)")
    convert.add_argument("--limit", type=int, metavar="N", help="only the first N requests")
    convert.add_argument("--max-input-tokens", type=int, metavar="N", help="leave out longer prompts")
    convert.add_argument(
        "--sessions", type=int, metavar="N", help="draw N sessions with replacement, starting at random times"
    )
    convert.add_argument("--copies", type=int, metavar="N", help="lay N copies with their own sessions over each other")
    convert.add_argument("--qps", type=float, metavar="Q", help="mean requests per second")
    convert.add_argument("--seed", type=int, default=0, metavar="N", help="for all that is drawn (default 0)")


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="a trace file, or a directory of agent sessions")
    parser.add_argument(
        "--format", choices=("auto", *FORMATS), default="auto", help="its format (default: told by its content)"
    )


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
