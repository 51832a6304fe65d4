"""`dualmap sim-instance`: one simulated vLLM server. Also `python -m dualmap.instances.simulated.cli --port P`."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import uvloop

from dualmap.instances.kv_events.format import EngineEvent
from dualmap.instances.simulated.engine_profile import OFFLOAD_S_PER_TOKEN, EngineProfile
from dualmap.instances.simulated.front import Front
from dualmap.instances.simulated.kv_events_config import EndpointError, KvEventsConfig, read_kv_events_config
from dualmap.instances.simulated.kv_transfer import KvSide
from dualmap.instances.simulated.listener import Listener, add_listen_arguments, listener_of
from dualmap.instances.simulated.media import MediaTokens
from dualmap.instances.simulated.mooncake import BOOTSTRAP_PORT, TIMEOUT_S, MooncakeSide
from dualmap.instances.simulated.profile_file import read_profile
from dualmap.instances.simulated.server import SimServer
from dualmap.scheduler.role import Role

DEFAULTS = EngineProfile()
MEDIA_DEFAULTS = MediaTokens()
EXAMPLES = (
    "dualmap sim-instance --port 8001 --model sim --lora sql --lora tone",
    "dualmap sim-instance --host 0.0.0.0 --port 8001 --profile profiles/qwen-7b.yaml --max-num-queued-reqs 64",
    "dualmap sim-instance --port 0 --prefill-tokens-per-s 12000 --kv-tokens 300000 --max-num-seqs 128",
    "dualmap sim-instance --port 8001 --image-tokens 1024 --audio-tokens 500 --video-tokens 8000 --file-tokens 2000",
    "dualmap sim-instance --port 8001 --no-response-store",
    "dualmap sim-instance --host :: --port 8001 --ssl-certfile cert.pem --ssl-keyfile key.pem --api-key first second",
    "dualmap sim-instance --port 8001 --ssl-certfile cert.pem --ssl-ca-certs clients.pem --ssl-cert-reqs 2",
    "dualmap sim-instance --uds /run/sim.sock --root-path /llm --load-s 20",
    "dualmap sim-instance --port 0 --max-num-batched-tokens 4096 --block-size 16 --max-model-len 32768",
    "dualmap sim-instance --port 8001 --model /models/qwen-7b --served-model-name qwen qwen-7b",
    "dualmap sim-instance --port 8001 --role prefill --kv-host 10.0.0.7",
    "dualmap sim-instance --port 8001 --role prefill --kv-connector mooncake --bootstrap-port 8998 --kv-wait-s 60",
    "dualmap sim-instance --port 8001 --data-parallel-size 4",
    "dualmap sim-instance --port 8001 --cpu-cache-tokens 2000000 --cpu-load-tokens-per-s 200000",
    """dualmap sim-instance --port 8001 --kv-events-config '{"enable_kv_cache_events":true,"endpoint":"tcp://*:5557"}'""",
    "dualmap sim-instance --port 8002 --role decode --transfer-tokens-per-s 200000 --transfer-latency-s 0.01",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("server")
    add_listen_arguments(server)
    server.add_argument(
        "--api-key",
        nargs="+",
        default=[],
        metavar="KEY",
        help="of which requests to /v1, /v2 and /inference must bear one, as vLLM has it (default: none needed)",
    )
    server.add_argument(
        "--root-path", default="", metavar="PREFIX", help="that a path may have before it, such as /llm (default: none)"
    )
    server.add_argument(
        "--load-s",
        type=_seconds,
        default=0.0,
        metavar="SECONDS",
        help="for so long everything is answered 503, as by a proxy whose server loads its model (default 0)",
    )
    server.add_argument("--model", default="sim", metavar="NAME", help="that it serves (default %(default)s)")
    server.add_argument(
        "--served-model-name",
        nargs="+",
        default=[],
        metavar="NAME",
        help="as clients call it; answers bear the first one (default: the model's)",
    )
    server.add_argument(
        "--lora", action="append", default=[], metavar="NAME", help="a LoRA adapter; repeatable (default: none)"
    )
    server.add_argument(
        "--no-response-store",
        action="store_true",
        help="keep no responses, as vLLM without VLLM_ENABLE_RESPONSES_API_STORE (default: they are kept)",
    )
    server.add_argument(
        "--role",
        choices=[role.value for role in Role],
        default=Role.BOTH.value,
        help="as vLLM with --kv-transfer-config: prefill lends the KV of prompts (kv_transfer_params of a request with"
        " do_remote_decode), decode reads it from there (do_remote_prefill) (default %(default)s)",
    )
    server.add_argument(
        "--kv-connector",
        choices=("nixl", "mooncake"),
        default="nixl",
        help="NixlConnector or MooncakeConnector (default %(default)s)",
    )
    server.add_argument(
        "--bootstrap-port",
        type=int,
        default=BOOTSTRAP_PORT,
        metavar="PORT",
        help="of mooncake: where a server that lends tells of its engine; 0: a free one (default %(default)s)",
    )
    server.add_argument(
        "--kv-wait-s",
        type=_above_zero,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help="of mooncake: for which prompts and their readers wait (default %(default)g)",
    )
    server.add_argument(
        "--kv-host",
        metavar="ADDRESS",
        help="where instances that decode reach this one, without TLS (default: --host)",
    )
    server.add_argument(
        "--kv-events-config",
        type=_kv_events,
        default=KvEventsConfig(),
        metavar="JSON",
        help="what comes into the KV cache and goes is published over ZMQ, as by vLLM with the same JSON (default:"
        " nothing is)",
    )
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--data-parallel-size",
        type=_count,
        default=1,
        metavar="N",
        help="engines, each with a KV cache of its own; X-data-parallel-rank of a request names one (default 1)",
    )
    engine.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="what `dualmap calibrate` measured; other flags override it (default: a 7B-class model)",
    )
    engine.add_argument(
        "--prefill-tokens-per-s",
        type=_above_zero,
        metavar="TOKENS",
        help=f"prompt tokens computed per second (default {1 / DEFAULTS.prefill_s_per_token:g})",
    )
    engine.add_argument(
        "--transfer-tokens-per-s",
        type=_above_zero,
        metavar="TOKENS",
        help=f"KV read from another instance per second (default {1 / DEFAULTS.transfer_s_per_token:.0f})",
    )
    engine.add_argument(
        "--transfer-latency-s",
        type=_seconds,
        metavar="SECONDS",
        help=f"of reading a prompt's KV, whatever its length (default {DEFAULTS.transfer_latency_s:g})",
    )
    engine.add_argument(
        "--cpu-cache-tokens",
        type=_count,
        metavar="TOKENS",
        help="KV kept in the host's memory behind the KV cache, vLLM's --kv-offloading-size (default: none)",
    )
    engine.add_argument(
        "--cpu-load-tokens-per-s",
        type=_above_zero,
        metavar="TOKENS",
        help=f"of it read back per second (default {1 / OFFLOAD_S_PER_TOKEN:.0f})",
    )
    for flag, unit, default, what in (
        ("--kv-tokens", "TOKENS", DEFAULTS.kv_tokens, "size of the KV cache"),
        ("--max-num-batched-tokens", "TOKENS", DEFAULTS.max_num_batched_tokens, "computed in a step"),
        ("--max-num-seqs", "N", DEFAULTS.max_num_seqs, "requests running at once"),
        ("--block-size", "TOKENS", DEFAULTS.block_size, "in a block of the cache"),
    ):
        engine.add_argument(flag, type=_count, metavar=unit, help=f"{what} (default {default})")
    for kind, default in MEDIA_DEFAULTS._asdict().items():
        engine.add_argument(
            f"--{kind}-tokens",
            type=_count,
            default=default,
            metavar="TOKENS",
            help=f"that one {kind} in a prompt counts (default %(default)s)",
        )
    engine.add_argument(
        "--max-model-len",
        type=_count,
        metavar="TOKENS",
        help=f"longest prompt and answer together (default {DEFAULTS.max_model_len}, or what the cache holds)",
    )
    engine.add_argument(
        "--max-num-queued-reqs",
        type=_count,
        metavar="N",
        help="requests waiting or running; more are answered 503 (default: no limit)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status, after one line on stderr if it is not 0."""
    try:
        profile = _profile(args)
        listener = listener_of(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        uvloop.run(_serve(args, profile, listener))
    except EndpointError as error:
        print(f"error: --kv-events-config: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = listener.uds or f"{args.host}:{args.port}"
        print(f"error: cannot listen on {place}: {error}", file=sys.stderr)
        return 1
    return 0


def _profile(args: argparse.Namespace) -> EngineProfile:
    """Raises ValueError."""
    base = DEFAULTS if args.profile is None else read_profile(args.profile, DEFAULTS)
    names = ("block_size", "kv_tokens", "max_num_batched_tokens", "max_num_seqs", "max_model_len", "transfer_latency_s")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.prefill_tokens_per_s is not None:
        given["prefill_s_per_token"] = 1 / args.prefill_tokens_per_s
    if args.transfer_tokens_per_s is not None:
        given["transfer_s_per_token"] = 1 / args.transfer_tokens_per_s
    if args.cpu_cache_tokens is not None:
        given["offload_tokens"] = args.cpu_cache_tokens
        given["offload_s_per_token"] = base.offload_s_per_token or OFFLOAD_S_PER_TOKEN
    if args.cpu_load_tokens_per_s is not None:
        given["offload_s_per_token"] = 1 / args.cpu_load_tokens_per_s
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


def _kv_events(text: str) -> KvEventsConfig:
    """An argument's type. Raises ArgumentTypeError."""
    try:
        return read_kv_events_config(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _above_zero(text: str) -> float:
    """An argument's type. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _seconds(text: str) -> float:
    """An argument's type. Raises ArgumentTypeError."""
    return 0.0 if text == "0" else _above_zero(text)


def _side(args: argparse.Namespace) -> KvSide:
    role, host = Role(args.role), args.kv_host or args.host
    return KvSide(role, host) if args.kv_connector == "nixl" else MooncakeSide(role, host, lease_s=args.kv_wait_s)


@contextmanager
def _publishing(config: KvEventsConfig, ranks: int) -> Iterator[list[Callable[[list[EngineEvent]], None]]]:
    """Of each rank, who publishes its events; of none where they are off. Raises EndpointError."""
    if not config.publishes:
        yield []
        return
    from dualmap.instances.simulated.kv_publisher import KvPublisher  # ZMQ is loaded where it is needed

    with ExitStack() as stack:
        publishers = [stack.enter_context(closing(KvPublisher(config, rank))) for rank in range(ranks)]
        yield [publisher.publish for publisher in publishers]


async def _serve(args: argparse.Namespace, profile: EngineProfile, listener: Listener) -> None:
    """Raises EndpointError, OSError."""
    media = MediaTokens(*(getattr(args, f"{kind}_tokens") for kind in MediaTokens._fields))
    keep_responses = not args.no_response_store
    with _publishing(args.kv_events_config, args.data_parallel_size) as publish:
        server = SimServer(
            profile,
            args.model,
            args.max_num_queued_reqs,
            tuple(args.lora),
            names=tuple(args.served_model_name),
            media=media,
            keep_responses=keep_responses,
            front=Front(tuple(filter(None, args.api_key)), args.root_path, args.load_s),
            side=_side(args),
            data_parallel_size=args.data_parallel_size,
            bootstrap_port=args.bootstrap_port,
            publish=publish,
        )
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        port = await server.listen(listener)
        print(f"listening on {listener.url(port)}", flush=True)
        await stop.wait()
        await server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dualmap.instances.simulated.cli")
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
