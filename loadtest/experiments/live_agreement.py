"""The same policy live and in virtual time: `python -m dualmap.loadtest.experiments.live_agreement`.

A deployment as `dualmap up --simulate N --journal FILE` starts it (Ray, a gateway, the simulated servers; real HTTP)
serves a trace, open loop. What its journal says arrived is then given to the cluster in virtual time, and what was
decided and what came of it are compared, as the gateway saw them.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from dualmap.instances.calibrate.cpu_model import cpu_model
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.loadtest.cli.demo import MAX_INPUT_TOKENS, WORKLOAD
from dualmap.loadtest.cli.replay import positive, run_replay
from dualmap.loadtest.experiments.agreement_table import compare, furthest_apart, table
from dualmap.loadtest.experiments.decided import decided
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.recorded import run_again
from dualmap.loadtest.replay.run_file import Outcome, RunFileError, read_run
from dualmap.loadtest.traces.synth import synthesise
from dualmap.loadtest.traces.trace import TraceError, TraceRequest, read_trace, select, write_trace
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.config.pool_settings import SimulatedInstances
from dualmap.router.deployment.actors import ClusterError
from dualmap.router.deployment.cluster import Cluster
from dualmap.router.journal.format import JournalError
from dualmap.router.journal.replay import JournalReader
from dualmap.router.journal.writer import path_for
from dualmap.scheduler.config import POLICY_NAMES

INSTANCES = 8
REQUESTS = 300
QPS = 9.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instances", type=int, default=INSTANCES, metavar="N", help=f"simulated ones ({INSTANCES})")
    parser.add_argument("--requests", type=int, default=REQUESTS, metavar="N", help=f"to replay ({REQUESTS})")
    parser.add_argument("--qps", type=positive, default=QPS, metavar="Q", help=f"mean arrival rate ({QPS:g})")
    parser.add_argument("--policy", choices=POLICY_NAMES, default="dualmap", help="dualmap")
    parser.add_argument("--trace", metavar="FILE", help="the start of this Mooncake trace, not a synthetic one")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep trace, journal and run file there")


def run(args: argparse.Namespace) -> int:
    """0 the two agree; 1 they do not, or the live run failed; 2 it could not start."""
    with tempfile.TemporaryDirectory(prefix="dualmap-agreement-") as folder:
        out = args.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        try:
            config = load_config(
                None,
                {
                    "simulate": {"count": args.instances},
                    "scheduler": {"policy": args.policy},
                    "gateway": {"port": 0, "admin_port": 0, "journal": out / "journal.jsonl.gz"},
                },
            )
            requests = chosen_requests(args.trace, args.requests, args.qps)
            path_for(out / "journal.jsonl.gz", "gateway-0").unlink(missing_ok=True)
            if code := serve(config, requests, args.qps, out):
                return code
            return report(config, out, requests)
        except (TraceError, ConfigFileError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except (ClusterError, JournalError, RunFileError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def chosen_requests(trace: str | None, count: int, qps: float) -> list[TraceRequest]:
    """Raises TraceError."""
    if trace is not None:
        return select(read_trace(trace), limit=count, max_input_tokens=MAX_INPUT_TOKENS)
    return synthesise(replace(WORKLOAD, qps=qps, requests=count))


def serve(config: DualMapConfig, requests: Sequence[TraceRequest], qps: float, out: Path) -> int:
    """Replay the requests against a deployment, which leaves its journal. Raises ClusterError."""
    trace = out / "trace.jsonl"
    write_trace(trace, requests)
    cluster = Cluster(config, say=lambda line: print(line, file=sys.stderr, flush=True))
    try:
        cluster.start_instances()
        port, _, _ = cluster.start_gateway(config)
        return run_replay(
            trace, f"http://127.0.0.1:{port}", out=out / "run.jsonl", label=config.scheduler.policy, qps=qps
        )
    finally:
        cluster.stop()  # the gateway first: it closes the journal


def report(config: DualMapConfig, out: Path, requests: Sequence[TraceRequest]) -> int:
    """Raises JournalError, RunFileError."""
    reader = JournalReader(path_for(out / "journal.jsonl.gz", "gateway-0"))
    records = list(reader.records())
    _, rows = read_run(out / "run.jsonl")
    failed = [row for row in rows if row.outcome is not Outcome.OK]
    if failed or reader.note:
        print(f"error: {len(failed)} requests failed; {reader.note or 'the journal is whole'}", file=sys.stderr)
        return 1
    live = decided(records)
    traced = {row.request_id: requests[row.index] for row in rows if row.request_id}
    virtual = run_again(records, reader.header.config, instance_profile(config.simulate), traced, config.simulate.model)
    found = compare(live, virtual)
    arrivals = [one.arrived_s for one in live.values()]
    qps = len(arrivals) / (arrivals[-1] - arrivals[0])
    print(
        f"\n{config.simulate.count} simulated instances, {len(live)} requests at {qps:.1f} a second, policy"
        f" {config.scheduler.policy}, {date.today().isoformat()}, {cpu_model()}, {os.cpu_count()} cores\n"
    )
    print(table(found))
    print(furthest_apart(live, virtual))
    return 0 if found.holds else 1


def instance_profile(simulate: SimulatedInstances) -> EngineProfile:
    """Of the servers that dualmap.router.deployment.cluster starts."""
    capacity = simulate.capacity
    return EngineProfile(
        kv_tokens=capacity.kv_tokens,
        max_num_batched_tokens=simulate.max_num_batched_tokens,
        max_num_seqs=capacity.max_running,
        prefill_s_per_token=1 / capacity.prefill_tokens_per_s,
    )


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
