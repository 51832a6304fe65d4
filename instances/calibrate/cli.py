"""`dualmap calibrate`: measures a vLLM server that nobody else uses, and writes a profile that `dualmap sim-instance
--profile` and `dualmap simulate --model` load."""

import argparse
import asyncio
import ipaddress
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

from dualmap.instances.calibrate.cpu_model import cpu_model
from dualmap.instances.calibrate.measure import CalibratePlan, Timings, make_plan, measure, warm_up
from dualmap.instances.calibrate.profile import Calibrated, calibrated, capacity_line, file_text, residuals
from dualmap.instances.calibrate.server import CalibrateTarget, ask_target, idle_metrics
from dualmap.instances.calibrate.stream import CalibrateError
from dualmap.instances.server.metrics import ServerMetrics
from dualmap.instances.simulated.profile_capacity import truthful_capacity
from dualmap.scheduler.errors import ConfigError

SETTLE_S = 1.0  # a server counts an answer shortly after its last token has left
MOST_STREAMS = 256  # at once, where max_num_seqs is not known
EXAMPLES = (
    "dualmap calibrate --url http://127.0.0.1:8000 --out profiles/qwen-7b.yaml",
    'dualmap calibrate --url http://127.0.0.1:8000 --model tiny --quick --note "one H200"',
    "dualmap calibrate --url http://127.0.0.1:8000 --max-prompt 16384 --max-num-batched-tokens 8192 --max-num-seqs 256",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("server", "Nobody else may use it meanwhile.")
    server.add_argument("--url", required=True, metavar="URL", help="http://HOST:PORT (required)")
    server.add_argument("--model", metavar="NAME", help="(default: the only one of its /v1/models)")
    server.add_argument(
        "--max-num-batched-tokens", type=_count, metavar="TOKENS", help="(default: told by how it cuts a long prompt)"
    )
    server.add_argument(
        "--max-num-seqs",
        type=_count,
        metavar="N",
        help="requests at once (default: told by how many streams run at once)",
    )
    measured = parser.add_argument_group("what is measured")
    measured.add_argument(
        "--max-prompt", type=_count, metavar="TOKENS", help="longest prompt (default: what model and KV cache allow)"
    )
    measured.add_argument(
        "--quick", action="store_true", help="less than a minute, less exact (default: more and longer measurements)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, metavar="FILE", help="the profile (default MODEL.yaml)")
    output.add_argument("--note", default="", metavar="TEXT", help="about the machine, for the file (default: its CPU)")


def run(args: argparse.Namespace) -> int:
    """0; 1 with a line on stderr if it could not be measured; 130 for a Ctrl-C."""
    try:
        asyncio.run(_calibrate(args))
    except (CalibrateError, ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


async def _calibrate(args: argparse.Namespace) -> None:
    """Raises CalibrateError, ConfigError, OSError."""
    target = await ask_target(args.url, args.model)
    plan = make_plan(target, args.max_prompt, args.max_num_seqs or MOST_STREAMS, quick=args.quick)
    out = args.out or Path(f"{Path(target.model).name}.yaml")
    out.parent.mkdir(parents=True, exist_ok=True)
    result = await write_profile(
        out, target, plan, budget=args.max_num_batched_tokens, max_num_seqs=args.max_num_seqs, note=args.note, say=_say
    )
    capacity = capacity_line(truthful_capacity(result.profile))
    print("\n".join(["", *residuals(result), "", *result.told, "", capacity, "", f"profile: {out}"]))


async def write_profile(
    out: Path,
    target: CalibrateTarget,
    plan: CalibratePlan,
    *,
    budget: int | None = None,
    max_num_seqs: int | None = None,
    note: str = "",
    say: Callable[[str], None],
) -> Calibrated:
    """Measure, and keep what came of it. budget, max_num_seqs, note: as the command's options. Raises CalibrateError,
    ConfigError, OSError."""
    say(f"{target.model} at {target.url}, vLLM {target.version}: {target.kv_tokens} tokens of KV cache")
    await warm_up(target)
    await asyncio.sleep(SETTLE_S)
    before = await idle_metrics(target.url)
    timings = await measure(target, plan, say)
    await asyncio.sleep(SETTLE_S)
    _check(target, timings, before, await idle_metrics(target.url))
    result = calibrated(target, timings, budget, max_num_seqs)
    text = file_text(result, truthful_capacity(result.profile), _about(target, note))
    out.write_text(text)  # noqa: ASYNC240, one small file, when all is done
    return result


def _check(target: CalibrateTarget, timings: Timings, before: ServerMetrics, after: ServerMetrics) -> None:
    """Whether what was timed is what was meant. Raises CalibrateError."""
    others_tokens = after.generation_tokens - before.generation_tokens - timings.produced_tokens
    if others_tokens > 0:
        raise CalibrateError(
            f"{target.url} made {others_tokens} tokens for others meanwhile: it must have no other work"
        )
    if after.prefix_hits_tokens == before.prefix_hits_tokens:
        raise CalibrateError(f"{target.url} found no prompt in its cache that it had before: is prefix caching off?")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _about(target: CalibrateTarget, note: str) -> list[str]:
    machine = note or (cpu_model() if _is_here(target.host) else "machine not told")
    return [
        f"Measured by `dualmap calibrate` on {date.today().isoformat()}",
        f"model {target.model}, vLLM {target.version}, {machine}",
    ]


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _count(text: str) -> int:
    """An argument's type. Raises ArgumentTypeError."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value
