"""Flags of `dualmap up` and `dualmap pick`, and the settings of a deployment that they stand for."""

import argparse
from pathlib import Path
from typing import Any

from dualmap.router.config.kv_transfer import CONNECTORS
from dualmap.scheduler.config import POLICY_NAMES


def add_deployment_flags(parser: argparse.ArgumentParser, serves_http: bool = True) -> None:
    """serves_http: False where the gateway's port speaks gRPC, and has a flag of its own."""
    file = parser.add_argument_group("deployment file")
    file.add_argument(
        "config",
        nargs="?",
        type=_file if serves_http else _file_of_picker,
        metavar="FILE",
        help="dualmap.yaml; flags override what it says (default: flags alone)",
    )
    file.add_argument(
        "--deployment",
        metavar="NAME",
        help="of this deployment, where several share a machine or a Ray cluster (default: no name)",
    )
    running = parser.add_argument_group("instances that run already")
    running.add_argument(
        "--instance",
        action="append",
        metavar="URL",
        help="a vLLM server: http://HOST:PORT, https://HOST:PORT, either with a path's prefix, or unix:///PATH;"
        " @0..7 behind it: ranks of a data-parallel server; repeatable (default: none)",
    )
    if serves_http:
        _add_roles(running)
    _add_vllm(parser.add_argument_group("vLLM servers to start"))
    simulated = parser.add_argument_group("simulated instances to start")
    simulated.add_argument(
        "--simulate", type=int, metavar="N", help="number of servers that behave as vLLM without a model (default 0)"
    )
    gateway = parser.add_argument_group("gateway")
    gateway.add_argument(
        "--host",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 serves other machines, :: over IPv6, too (default 127.0.0.1)",
    )
    if serves_http:
        gateway.add_argument(
            "--port", type=int, metavar="PORT", help="port of OpenAI's API; 0: a free one (default 8080)"
        )
    gateway.add_argument(
        "--admin-port", type=int, metavar="PORT", help="port of /metrics, /admin and /ui; 0: a free one (default 8081)"
    )
    gateway.add_argument(
        "--gateways",
        type=int,
        metavar="N",
        help="processes that share the port; 0: those of other hosts join (default 1)",
    )
    gateway.add_argument(
        "--gateway-name", metavar="NAME", help="their ids are NAME-0, NAME-1 (default gateway, or this host's name)"
    )
    objectives = parser.add_argument_group("placement")
    objectives.add_argument(
        "--policy", metavar="NAME", help=f"{', '.join(POLICY_NAMES)}, or an installed package's (default dualmap)"
    )
    objectives.add_argument(
        "--slo", type=float, metavar="SECONDS", help="objective for the time to the first token (default 5)"
    )
    objectives.add_argument(
        "--tpot", type=float, metavar="SECONDS", help="objective for the time per output token; 0: none (default 0)"
    )
    logs = parser.add_argument_group("what is written")
    logs.add_argument(
        "--journal", type=Path, metavar="FILE", help="every event and what was decided, gzipped for .gz (default: none)"
    )
    logs.add_argument(
        "--log-to", choices=("file", "stdout", "both"), help="files, our standard output, or both (default file)"
    )
    logs.add_argument(
        "--log-format", choices=("console", "json"), help="form of the gateways' log lines (default console)"
    )
    logs.add_argument(
        "--log-requests", action="store_true", default=None, help="a line for each request (default: none)"
    )
    cluster = parser.add_argument_group("Ray")
    cluster.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="a running Ray cluster to join; ray://HOST:PORT: gateways only, which join the deployment there (default:"
        " one is started here)",
    )


def _add_roles(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--prefill",
        action="append",
        metavar="URL",
        help="the same, of a server that computes prompts for those of --decode; repeatable (default: none)",
    )
    group.add_argument(
        "--decode",
        action="append",
        metavar="URL",
        help="the same, of a server that answers, and has prompts computed by those of --prefill (default: none)",
    )
    group.add_argument(
        "--kv-connector",
        choices=CONNECTORS,
        help="how those of --prefill hand prompts over: as their --kv-transfer-config says (default nixl)",
    )


def _add_vllm(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--model", metavar="PATH_OR_NAME", help="what they serve, as for `vllm serve` (default: no server is started)")
    add("--replicas", type=int, metavar="N", help="number of servers (default 1)")
    add("--engine-args", metavar="ARGS", help="further arguments of `vllm serve`, in one string (default: none)")
    add("--tensor-parallel-size", type=int, metavar="GPUS", help="GPUs that share a model (default 1)")
    add(
        "--gpus-per-replica",
        type=float,
        metavar="GPUS",
        help="reserved for each; 0: vLLM's CPU build (default: --tensor-parallel-size where Ray has GPUs, else 0)",
    )
    add("--vllm", metavar="PATH", help="the vllm command (default: beside our Python, or on the PATH)")
    add(
        "--kv-events",
        action="store_true",
        default=None,
        help="they, or those of --simulate, tell what is in their KV caches (default: they do not)",
    )


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The sections of the configuration that flags set."""
    starts_vllm = args.model is not None or args.simulate is None
    values: dict[str, Any] = {
        "gateway": _given(
            host=args.host,
            port=getattr(args, "port", None),
            admin_port=args.admin_port,
            journal=args.journal,
            count=args.gateways,
            name=args.gateway_name,
        ),
        "scheduler": _given(policy=args.policy, ttft_slo_s=args.slo, tpot_slo_s=args.tpot),
        "simulate": _given(count=args.simulate, kv_events=None if args.simulate is None else args.kv_events),
        "vllm": _given(
            model=args.model,
            replicas=args.replicas,
            engine_args=args.engine_args,
            tensor_parallel_size=args.tensor_parallel_size,
            gpus_per_replica=args.gpus_per_replica,
            executable=args.vllm,
            kv_events=args.kv_events if starts_vllm else None,
        ),
        "logs": _given(to=args.log_to, format=args.log_format, requests=args.log_requests),
        "instances": [
            *(args.instance or ()),
            *({"url": url, "role": role} for role in ("prefill", "decode") for url in getattr(args, role, None) or ()),
        ],
        "kv_transfer": _given(connector=getattr(args, "kv_connector", None)),
        "ray_address": args.ray_address,
        "deployment": args.deployment,
    }
    return {section: value for section, value in values.items() if value}


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _file(text: str, more: str = "") -> Path:
    """more: is said of an address. Raises ArgumentTypeError for one: servers are often given without the flag that they
    need."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"an address is no file: a server is given by --instance URL{more}")
    return Path(text)


def _file_of_picker(text: str) -> Path:
    return _file(text, "; a picker takes no --prefill and --decode, since its proxy sends each request once")
