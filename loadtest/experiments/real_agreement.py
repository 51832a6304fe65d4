"""Real vLLM servers against simulated ones.

    python -m dualmap.loadtest.experiments.real_agreement --vllm PATH --model DIR

One or more `vllm serve` are started, one of them is measured (`dualmap calibrate`), and a trace of chats is replayed,
open loop, through a gateway in front of them; then the very same in front of as many simulated servers with that
profile, at the same addresses, so that the gateway's rings are the same. Prompts are token ids, so that both sides
count them alike. What the gateway decides is part of what is compared: it goes by the answers it sees.
"""

import argparse
import asyncio
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from dualmap.instances.calibrate.cli import write_profile
from dualmap.instances.calibrate.cpu_model import cpu_model
from dualmap.instances.calibrate.measure import make_plan, warm_up
from dualmap.instances.calibrate.server import ask_target, idle_metrics
from dualmap.instances.calibrate.stream import CalibrateError
from dualmap.instances.server.process import StartError
from dualmap.instances.server.start import free_ports
from dualmap.instances.server.vllm_command import NoVllmError, find_vllm, serve_command, serve_env
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.profile_capacity import truthful_capacity
from dualmap.instances.simulated.profile_file import read_profile
from dualmap.loadtest.cli.replay import positive, run_replay
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.real_agreement_servers import HOST, gateway, servers
from dualmap.loadtest.experiments.real_agreement_table import AgreementSide, holds, side, table
from dualmap.loadtest.replay.run_file import Outcome, RunFileError, read_run
from dualmap.loadtest.traces.load_level import round_robin_qps
from dualmap.loadtest.traces.synth import Lognormal, SynthConfig, synthesise
from dualmap.loadtest.traces.trace import TraceRequest, write_trace
from dualmap.scheduler.config import POLICY_NAMES

MODEL = "model"  # what both kinds of servers call it
SERVERS = 1  # each keeps a core busy, and gateway and load need some, too
REQUESTS = 200
SHARE = 0.6  # of what round_robin can bear
SLO_S = 2.0
LONGEST_TOKENS = 8192  # measured
ENGINE_ARGS = "--max-model-len 16384 --enforce-eager --max-num-seqs 16 --block-size 32 --num-gpu-blocks-override 2000"
FIRST_GUESS_QPS = 1.0

# Chats short enough for a CPU: some 3 turns, prompts of 0.4k to 6k tokens.
WORKLOAD = SynthConfig(
    system_prompts=8,
    system_tokens=Lognormal(600, 0.6, 128, 2048),
    first_message=Lognormal(600, 1.0, 16, 4096),
    next_message=Lognormal(200, 1.0, 8, 2048),
    answer=Lognormal(24, 0.5, 8, 64),
    think=Lognormal(8, 0.7, 1, 60),
    max_input_tokens=6144,
)


@dataclass(frozen=True, slots=True)
class Work:
    """The trace at `path`, how fast it is replayed, and what the gateway goes by: `scheduler` of its configuration."""

    path: Path
    requests: list[TraceRequest]
    qps: float
    scheduler: dict[str, object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--vllm", required=True, metavar="PATH", help="the vllm command")
    add("--model", required=True, metavar="DIR", help="for `vllm serve`")
    add("--engine-args", default=ENGINE_ARGS, metavar="ARGS", help=f"also for it ({ENGINE_ARGS})")
    add("--profile", type=Path, metavar="FILE", help="of the server; by default one is measured first")
    add("--servers", type=int, default=SERVERS, metavar="N", help=f"of each kind ({SERVERS})")
    add("--requests", type=int, default=REQUESTS, metavar="N", help=f"to replay ({REQUESTS})")
    add("--share", type=positive, default=SHARE, metavar="X", help=f"of what round_robin can bear ({SHARE:g})")
    add("--qps", type=positive, metavar="Q", help="mean arrival rate, in place of --share")
    add("--policy", choices=POLICY_NAMES, default="dualmap", help="of the gateway (dualmap)")
    add("--slo", type=positive, default=SLO_S, metavar="S", help=f"its time-to-first-token objective ({SLO_S:g})")
    add("--out", type=Path, metavar="DIR", help="keep profile, trace and run files there")


def run(args: argparse.Namespace) -> int:
    """0 the two agree; 1 they do not, or it failed."""
    with tempfile.TemporaryDirectory(prefix="dualmap-agreement-") as folder:
        out = (args.out or Path(folder)).absolute()
        out.mkdir(parents=True, exist_ok=True)
        try:
            real, simulated, work = asyncio.run(_both(args, out))
        except (StartError, CalibrateError, NoVllmError, RunFileError, ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    model = Path(args.model).name
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"\nservers: {args.servers} of {model}, {len(work.requests)} requests at {work.qps:.2f} a second,"
        f" policy {args.policy}, SLO {args.slo:g} s,"
        f" {date.today().isoformat()}, {cpu_model()}, {os.cpu_count()} cores,"
        f" load average at the end {load}\n"
    )
    print(table(real, simulated))
    return 0 if holds(real, simulated) else 1


async def _both(args: argparse.Namespace, out: Path) -> tuple[AgreementSide, AgreementSide, Work]:
    """Raises StartError, CalibrateError, NoVllmError, RunFileError, ValueError, OSError."""
    ports = free_ports(HOST, args.servers)
    urls = [f"http://{HOST}:{port}" for port in ports]
    engine_args = ["--served-model-name", MODEL, *shlex.split(args.engine_args)]
    command = serve_command(find_vllm(args.vllm), args.model, engine_args, tensor_parallel_size=1, kv_events=False)
    env = serve_env(0, 1, {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"})
    _say(f"starting {args.servers} of {shlex.join(command)}")
    async with servers(command, ports, out / "vllm", env):
        path = args.profile or out / "profile.yaml"
        if args.profile is None:
            target = await ask_target(urls[0], MODEL)
            plan = make_plan(target, LONGEST_TOKENS, target.longest_tokens, quick=False)
            await write_profile(path, target, plan, say=_say)
        profile = read_profile(path, EngineProfile())
        work = _work(args, profile, out)
        real = await _replayed("real", urls, profile, work, out)
    simulated_command = (sys.executable, "-m", "dualmap.instances.simulated.cli", "--port", "{port}", "--model", MODEL)
    async with servers((*simulated_command, "--profile", str(path)), ports, out / "simulated"):
        return real, await _replayed("simulated", urls, profile, work, out), work


def _work(args: argparse.Namespace, profile: EngineProfile, out: Path) -> Work:
    """Raises ValueError."""
    qps = args.qps or FIRST_GUESS_QPS
    for _ in range(3):  # the rate decides how much of each chat falls into the run, and so what can be cached
        requests = synthesise(replace(WORKLOAD, qps=qps, requests=args.requests))
        if args.qps is None:
            qps = _bearable_qps(requests, profile, args.servers, args.share)
    path = out / "trace.jsonl"
    write_trace(path, requests)
    return Work(path, requests, qps, {"policy": args.policy, "ttft_slo_s": args.slo})


def _bearable_qps(requests: Sequence[TraceRequest], profile: EngineProfile, servers: int, share: float) -> float:
    mean_tokens = sum(request.input_length for request in requests) / len(requests)
    return round_robin_qps(
        requests,
        instances=servers,
        prefill_s_per_token=profile.prefill_s_per_token + profile.attention_s_per_token_pair * mean_tokens / 2,
        kv_tokens=profile.kv_tokens,
        share=share,
        step_s=profile.step_base_s + profile.step_overhead_s,
        decode_s_per_token=profile.decode_s_per_seq,
        decode_s_per_context_token=profile.decode_s_per_context_token,
    )


async def _replayed(label: str, urls: Sequence[str], profile: EngineProfile, work: Work, out: Path) -> AgreementSide:
    """Raises StartError, CalibrateError, RunFileError, ValueError."""
    for url in urls:  # the first requests of a server pay for what is set up when it is first used
        await warm_up(await ask_target(url, MODEL))
    path = out / f"{label}.jsonl"
    before = [await idle_metrics(url) for url in urls]
    async with gateway(urls, truthful_capacity(profile), work.scheduler, out / f"{label}-gateway") as port:
        options = {
            "label": label,
            "qps": work.qps,
            "api": "token-ids",
            "model": MODEL,
            "slo_s": work.scheduler["ttft_slo_s"],
        }
        await asyncio.to_thread(run_replay, work.path, f"http://{HOST}:{port}", out=path, **options)
    after = [await idle_metrics(url) for url in urls]
    header, rows = read_run(path)
    failed = [row for row in rows if row.outcome is not Outcome.OK]
    if failed or len(rows) < header.requests:
        raise ValueError(f"{len(failed)} of {header.requests} requests failed in front of the {label} servers")
    return side(header, rows, before, after)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
