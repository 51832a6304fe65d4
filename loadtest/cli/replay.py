"""`dualmap replay`: arguments, and the process that does the work."""

import argparse
import importlib.util
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

_GRACE_S = 15.0  # for the replay process to write its last rows
EXAMPLES = (
    "dualmap replay trace.jsonl --target http://127.0.0.1:8080 --qps 8 --label dualmap --html runs/report.html",
    "dualmap replay trace.jsonl --target http://127.0.0.1:8080 --speed 2 --limit 1000 --max-input-tokens 20480 --slo 2",
    "dualmap replay trace.jsonl --target http://127.0.0.1:8080 --model tiny --api token-ids --out runs/tiny.jsonl",
    'dualmap replay trace.jsonl --target http://127.0.0.1:8080 --request-timeout 60 --time-limit 600 --note "8 GPUs"',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_work(parser)
    gateway = parser.add_argument_group("gateway")
    gateway.add_argument("--target", required=True, metavar="URL", help="http://HOST:PORT (required)")
    gateway.add_argument("--model", metavar="NAME", help="that is asked for (default: the first of its /v1/models)")
    gateway.add_argument(
        "--api",
        choices=("chat", "completions", "token-ids", "responses", "messages"),
        default="chat",
        help="how it is asked; token-ids: completions with token ids as prompt (default %(default)s)",
    )
    limits = parser.add_argument_group("objective and time-outs")
    limits.add_argument(
        "--slo",
        type=positive,
        default=5.0,
        metavar="SECONDS",
        help="objective for the time to the first token (default %(default)g)",
    )
    limits.add_argument(
        "--request-timeout",
        type=positive,
        default=300.0,
        metavar="SECONDS",
        help="of one request (default %(default)g)",
    )
    limits.add_argument(
        "--time-limit",
        type=positive,
        metavar="SECONDS",
        help="of the whole run (default: the arrivals' span and two request time-outs)",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--label", default="replay", metavar="NAME", help="of the run in reports (default %(default)s)")
    output.add_argument("--note", default="", metavar="TEXT", help="what serves it; reports say so (default: nothing)")
    output.add_argument("--out", metavar="FILE", help="run file (default runs/LABEL-TIME.jsonl)")
    output.add_argument("--html", metavar="FILE", help="write a report as one HTML page (default: none)")


def _add_work(parser: argparse.ArgumentParser) -> None:
    work = parser.add_argument_group("work")
    work.add_argument("trace", metavar="TRACE", help="a trace in the Mooncake format")
    work.add_argument("--limit", type=_count, metavar="N", help="replay only the first N requests (default: all)")
    work.add_argument(
        "--max-input-tokens", type=_count, metavar="TOKENS", help="leave out longer prompts (default: none)"
    )
    pace = work.add_mutually_exclusive_group()
    pace.add_argument(
        "--qps", type=positive, metavar="QPS", help="mean rate of arrivals, requests per second (default: the trace's)"
    )
    pace.add_argument(
        "--speed",
        type=positive,
        default=1.0,
        metavar="X",
        help="seconds of the trace that are replayed in a second (default %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """The replay's exit status (see replay/process.py); the report is shown for an interrupted run too."""
    if not can_replay():
        return 2
    out = Path(args.out or f"runs/{args.label}-{datetime.now():%Y%m%d-%H%M%S}.jsonl")
    status = run_replay(
        args.trace,
        args.target,
        out=out,
        label=args.label,
        note=args.note,
        qps=args.qps,
        speed=args.speed,
        limit=args.limit,
        max_input_tokens=args.max_input_tokens,
        api=args.api,
        model=args.model,
        slo_s=args.slo,
        request_timeout_s=args.request_timeout,
        time_limit_s=args.time_limit,
    )
    if not out.exists():
        return status
    from dualmap.loadtest.cli.report import show_report

    print(f"run file: {out}")
    show_report([out], html=args.html, slo_s=args.slo)
    return status


def can_replay() -> bool:
    """Whether the packages for it are installed; says on stderr what to do where they are not."""
    if importlib.util.find_spec("locust") is None:
        print("error: a replay needs more packages: pip install 'dualmap[loadtest]'", file=sys.stderr)
        return False
    return True


def run_replay(trace_path: str | Path, target: str, *, out: str | Path, **options: Any) -> int:
    """Replay in a process of its own, whose progress goes to this process's stderr; returns its exit status.

    options: further fields of ReplayOptions. On KeyboardInterrupt the replay is asked to end, which
    leaves a complete run file, and 130 is returned.
    """
    import msgspec

    from dualmap.loadtest.replay.process import ReplayOptions

    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).unlink(missing_ok=True)  # a run that cannot start must not leave another's rows
    chosen = ReplayOptions(trace=str(trace_path), target=target, out=str(out), **options)
    command = [sys.executable, "-P", "-m", "dualmap.loadtest.replay.process", msgspec.json.encode(chosen).decode()]
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()  # a terminal has told it already; elsewhere only we were interrupted
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            return 130
        except BaseException:
            process.kill()
            raise


def positive(text: str) -> float:
    """For argparse: a finite number above 0."""
    value = float(text)
    if not value > 0 or value == float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, found {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {text}")
    return value
