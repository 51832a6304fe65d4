"""`dualmap sim-instance`: one simulated vLLM server. Also `python -m instances.sim_cli --port P`."""

import argparse
import asyncio
import signal
import sys

import uvloop

from instances.engine_profile import EngineProfile
from instances.sim_server import SimServer

DEFAULTS = EngineProfile()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, required=True, metavar="P", help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--model", default="sim", metavar="NAME")
    for flag, default, what in (
        ("--prefill-tokens-per-s", round(1 / DEFAULTS.prefill_s_per_token), "prompt tokens computed a second"),
        ("--kv-tokens", DEFAULTS.kv_tokens, "size of the KV cache, in tokens"),
        ("--max-num-batched-tokens", DEFAULTS.max_num_batched_tokens, "tokens computed in a step"),
        ("--max-num-seqs", DEFAULTS.max_num_seqs, "requests running at once"),
        ("--block-size", DEFAULTS.block_size, "tokens in a block of the cache"),
    ):
        kind = float if flag == "--prefill-tokens-per-s" else int
        parser.add_argument(flag, type=kind, default=default, metavar="N", help=f"{what} ({default})")
    parser.add_argument(
        "--max-model-len",
        type=int,
        metavar="N",
        help=f"longest prompt and answer together ({DEFAULTS.max_model_len}, or what the cache holds)",
    )
    parser.add_argument("--max-num-queued-reqs", type=int, metavar="N", help="more waiting requests are answered 503")


def run(args: argparse.Namespace) -> int:
    try:
        if not args.prefill_tokens_per_s > 0:
            raise ValueError(f"prefill_tokens_per_s must be greater than 0, not {args.prefill_tokens_per_s!r}")
        profile = EngineProfile(
            block_size=args.block_size,
            kv_tokens=args.kv_tokens,
            max_num_batched_tokens=args.max_num_batched_tokens,
            max_num_seqs=args.max_num_seqs,
            max_model_len=min(args.max_model_len or DEFAULTS.max_model_len, args.kv_tokens),
            prefill_s_per_token=1 / args.prefill_tokens_per_s,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        uvloop.run(_serve(args, profile))
    except (OSError, OverflowError) as error:
        print(f"error: cannot listen on {args.host}:{args.port}: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(args: argparse.Namespace, profile: EngineProfile) -> None:
    server = SimServer(profile, args.model, args.max_num_queued_reqs)
    port = await server.start(args.host, args.port)
    print(f"listening on http://{args.host}:{port}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m instances.sim_cli")
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
