"""`dualmap trace synth` and `dualmap trace describe`."""

import argparse
import sys


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
    show.add_argument("trace", metavar="TRACE", help="a trace in the Mooncake format")


def run(args: argparse.Namespace) -> int:
    """0, or 2 with a line on stderr for a file or a value that cannot be used."""
    from loadtest.describe import describe
    from loadtest.synth import SynthConfig, synthesise
    from loadtest.trace import read_trace, write_trace

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
            write_trace(args.out, requests)
            print(f"{len(requests)} requests written to {args.out}")
        else:
            requests = read_trace(args.trace)
    except (ValueError, OSError) as error:
        print(f"dualmap trace: {error}", file=sys.stderr)
        return 2
    for what, value in describe(requests):
        print(f"{what:>17}  {value}")
    return 0
