"""`dualmap sim-instance`: one simulated vLLM server. Also `python -m dualmap.instances.simulated.cli --port P`."""

import argparse
import asyncio
import signal
import sys
from dataclasses import replace
from pathlib import Path

import uvloop

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.profile_file import read_profile
from dualmap.instances.simulated.server import SimServer

DEFAULTS = EngineProfile()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=_port, required=True, metavar="P", help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--model", default="sim", metavar="NAME")
    parser.add_argument("--lora", action="append", default=[], metavar="NAME", help="a LoRA adapter; may be repeated")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="what `dualmap calibrate` measured; other flags override it"
    )
    parser.add_argument(
        "--prefill-tokens-per-s",
        type=_above_zero,
        metavar="N",
        help=f"prompt tokens computed a second ({1 / DEFAULTS.prefill_s_per_token:g})",
    )
    for flag, default, what in (
        ("--kv-tokens", DEFAULTS.kv_tokens, "size of the KV cache, in tokens"),
        ("--max-num-batched-tokens", DEFAULTS.max_num_batched_tokens, "tokens computed in a step"),
        ("--max-num-seqs", DEFAULTS.max_num_seqs, "requests running at once"),
        ("--block-size", DEFAULTS.block_size, "tokens in a block of the cache"),
    ):
        parser.add_argument(flag, type=_count, metavar="N", help=f"{what} ({default})")
    parser.add_argument(
        "--max-model-len",
        type=_count,
        metavar="N",
        help=f"longest prompt and answer together ({DEFAULTS.max_model_len}, or what the cache holds)",
    )
    parser.add_argument(
        "--max-num-queued-reqs",
        type=_count,
        metavar="N",
        help="requests waiting or running; more are answered 503 (no limit)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status, after one line on stderr if it is not 0."""
    try:
        profile = _profile(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        uvloop.run(_serve(args, profile))
    except OSError as error:
        print(f"error: cannot listen on {args.host}:{args.port}: {error}", file=sys.stderr)
        return 1
    return 0


def _profile(args: argparse.Namespace) -> EngineProfile:
    """Raises ValueError."""
    base = DEFAULTS if args.profile is None else read_profile(args.profile, DEFAULTS)
    names = ("block_size", "kv_tokens", "max_num_batched_tokens", "max_num_seqs", "max_model_len")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.prefill_tokens_per_s is not None:
        given["prefill_s_per_token"] = 1 / args.prefill_tokens_per_s
    if args.max_model_len is None:
        size = given.get("block_size", base.block_size)
        held = given.get("kv_tokens", base.kv_tokens) // size * size
        given["max_model_len"] = min(base.max_model_len, max(held, 1))  # no block at all is the profile's to refuse
    return replace(base, **given)


def _count(text: str) -> int:
    """An argument's type. Raises ArgumentTypeError."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


def _above_zero(text: str) -> float:
    """An argument's type. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _port(text: str) -> int:
    """An argument's type: uvloop would take larger numbers modulo 65536. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"must be a port number from 0 to 65535, not {text!r}")
    return int(text)


async def _serve(args: argparse.Namespace, profile: EngineProfile) -> None:
    server = SimServer(profile, args.model, args.max_num_queued_reqs, tuple(args.lora))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    port = await server.start(args.host, args.port)
    print(f"listening on http://{args.host}:{port}", flush=True)
    await stop.wait()
    await server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dualmap.instances.simulated.cli")
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
