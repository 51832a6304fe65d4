"""One run of the comparison with routers that others wrote: empty caches, a fresh router, a client, what came of it."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from dualmap.instances.server.metrics import read_metrics
from dualmap.instances.server.server_client import get_once
from dualmap.instances.server.start import free_ports
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.profile_file import profile_text
from dualmap.loadtest.cli.replay import run_replay
from dualmap.loadtest.experiments.peers_aiperf import aiperf, own_goodput, read_answers
from dualmap.loadtest.experiments.peers_measured import OURS, Measured, Objectives, answers_of, shares_and_times
from dualmap.loadtest.experiments.peers_workloads import Work, requests_of
from dualmap.loadtest.overhead.measured_proxy import (
    DEFAULT_GATEWAY,
    MeasuredProxy,
    ProxyError,
    gateway,
    nginx,
    running,
)
from dualmap.loadtest.overhead.peers import RECOMMENDED as RECOMMENDED_FLAGS
from dualmap.loadtest.overhead.peers import peer
from dualmap.loadtest.replay.flush_cache import FlushError, flush_cache
from dualmap.loadtest.replay.pace import due_times, speed_for_qps
from dualmap.loadtest.replay.run_file import read_run
from dualmap.loadtest.reports.summary import summarise
from dualmap.loadtest.traces.trace import TraceRequest, write_trace
from dualmap.scheduler.fleet.endpoint import Endpoint

NGINX = "nginx"
REPLAY, AIPERF = "replay", "AIPerf"
RECOMMENDED, DEFAULT, BOTH = "recommended", "default", "both objectives"
INSTANCES = 8
HOST = "127.0.0.1"
AFTER_S = 90.0  # in which the last answers may end
AIPERF_START_S = 120.0
EMPTY_S = 120.0  # until servers have started and are idle, so that their caches can be emptied
SCRAPE_S = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """Which router, how it is set up, what it serves, and who asks. rate: requests a second."""

    work: Work
    rate: float
    router: str
    settings: str
    client: str

    @property
    def name(self) -> str:
        parts = (self.work.name, f"{self.rate:g}", self.router, self.settings, self.client)
        return "-".join(filter(None, parts)).replace(" ", "-")


@dataclass(frozen=True, slots=True)
class Bench:
    """What all runs have in common.

    ports: of the servers. faster: how many times faster than the profile that simulated servers have by default they
        are; rates and objectives go with it. share: of the requests that are sent.
    traces: folder of the public ones. peers: environment of the other routers and of AIPerf.
    """

    ports: Sequence[int]
    model: str
    out: Path
    peers: Path
    traces: Path | None = None
    faster: float = 1.0
    share: float = 1.0

    def objectives(self, work: Work) -> Objectives:
        return Objectives(work.ttft_slo_s / self.faster, work.tpot_slo_s / self.faster)

    def requests(self, run: Run) -> list[TraceRequest]:
        """Due at the run's rate; AIPerf takes an answer of one token for none. Raises TraceError."""
        found = requests_of(run.work, self.traces)
        found = found[: max(1, round(len(found) * self.share))]
        least = 2 if run.client == AIPERF else 1
        due_s = due_times(found, speed_for_qps(found, run.rate * self.faster))
        return [
            TraceRequest(round(at_s * 1000), r.input_length, max(least, r.output_length), r.hash_ids)
            for at_s, r in zip(due_s, found, strict=True)
        ]


@contextmanager
def simulated_servers(faster: float, folder: Path) -> Iterator[list[int]]:
    """The ports of INSTANCES of them."""
    folder.mkdir(parents=True, exist_ok=True)
    slow = EngineProfile()
    times = {f.name: getattr(slow, f.name) / faster for f in fields(slow) if f.type is float}
    path = folder / "profile.yaml"
    path.write_text(profile_text(replace(slow, **times), []))
    ports = free_ports(HOST, INSTANCES)
    with ExitStack() as stack:
        for port in ports:
            command = [sys.executable, "-m", "dualmap", "sim-instance", "--port", str(port), "--profile", str(path)]
            stack.enter_context(running(command, [], folder / f"server-{port}.log"))
        yield ports


def measure(run: Run, bench: Bench) -> Measured:
    """Raises ProxyError, FlushError, AiperfError, RunFileError, TraceError."""
    folder = bench.out / run.name
    folder.mkdir(parents=True, exist_ok=True)
    requests = bench.requests(run)
    trace = folder / "trace.jsonl"
    write_trace(trace, requests)
    empty_caches(bench.ports)
    with _router(run, bench, folder) as proxy:
        began, began_s, times = datetime.now(UTC), time.monotonic(), psutil.cpu_times()
        before = _prefix_tokens(bench.ports)
        found = _ask(run, bench, requests, trace, f"http://{HOST}:{proxy.port}", folder)
        hits, queries = (b - a for a, b in zip(before, _prefix_tokens(bench.ports), strict=True))
        return Measured(
            work=run.work.name,
            rate=run.rate * bench.faster,
            router=run.router,
            settings=run.settings,
            client=run.client,
            version=proxy.name,
            started_at=began.isoformat(timespec="seconds"),
            requests=len(requests),
            cached=hits / queries if queries else 0.0,
            router_cpu_s=proxy.cpu_s(),
            load=os.getloadavg()[0],
            steal=_steal(times, psutil.cpu_times()),
            took_s=time.monotonic() - began_s,
            **found,
        )


def expected_s(run: Run, bench: Bench) -> float:
    """Of a run on a machine that does nothing else: arrivals, the last answers, and what starts. Raises TraceError."""
    return bench.requests(run)[-1].timestamp_ms / 1000 + 20 / bench.faster + (20 if run.client == AIPERF else 6)


def longest_s(run: Run, bench: Bench) -> float:
    """After which a client is stopped. Raises TraceError."""
    return bench.requests(run)[-1].timestamp_ms / 1000 + AFTER_S + (AIPERF_START_S if run.client == AIPERF else 0.0)


def _ask(
    run: Run, bench: Bench, requests: Sequence[TraceRequest], trace: Path, url: str, folder: Path
) -> dict[str, Any]:
    """Fields of Measured."""
    objectives = bench.objectives(run.work)
    limit_s = longest_s(run, bench)
    if run.client == AIPERF:
        aiperf(bench.peers, url, bench.model, trace, objectives, folder, limit_s)
        found: dict[str, Any] = shares_and_times(read_answers(folder), len(requests), objectives)
        return {**found, "own_goodput": own_goodput(folder)}
    out = folder / "run.jsonl"
    limits = {"request_timeout_s": limit_s, "time_limit_s": limit_s}
    if run_replay(trace, url, out=out, label=run.name, model=bench.model, slo_s=objectives.ttft_s, **limits) > 1:
        raise ProxyError(f"the replay did not start, see {folder}")
    header, rows = read_run(out)
    found = shares_and_times(answers_of(rows), len(requests), objectives)
    return {**found, "send_lag_p99_s": summarise(header, rows, objectives.ttft_s).send_lag_p99_s}


@contextmanager
def _router(run: Run, bench: Bench, folder: Path) -> Iterator[MeasuredProxy]:
    """Raises ProxyError."""
    if run.router == NGINX:
        with nginx(bench.ports, folder) as proxy:
            yield proxy
    elif run.router == OURS:
        objectives = bench.objectives(run.work)
        flags = f" --slo {objectives.ttft_s:g}" + (f" --tpot {objectives.tpot_s:g}" if run.settings == BOTH else "")
        with gateway(DEFAULT_GATEWAY + flags, bench.ports, folder) as proxy:
            proxy.name = OURS
            yield proxy
    else:
        flags = RECOMMENDED_FLAGS[run.router] if run.settings == RECOMMENDED else ""
        with peer(run.router, bench.peers, bench.ports, folder, flags) as proxy:
            yield proxy


def empty_caches(ports: Sequence[int]) -> None:
    """As soon as the servers answer and are idle. Raises FlushError."""
    give_up_at = time.monotonic() + EMPTY_S
    for port in ports:
        while True:
            try:
                flush_cache(HOST, port)
                break
            except FlushError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.2)


def _prefix_tokens(ports: Sequence[int]) -> tuple[int, int]:
    """That were found in the servers' caches, and that were looked for, since the servers' start. Raises ProxyError."""
    hits = queries = 0
    for port in ports:
        text = asyncio.run(get_once(Endpoint(HOST, port), "/metrics", SCRAPE_S))
        metrics = None if text is None else read_metrics(text)
        if metrics is None:
            raise ProxyError(f"the server on port {port} gives no metrics")
        hits += metrics.prefix_hits_tokens
        queries += metrics.prefix_queries_tokens
    return hits, queries


def _steal(before: Any, after: Any) -> float:
    """Share of the time of all cores that the hypervisor gave to others."""
    spent = sum(after) - sum(before)
    return float(getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)) / spent if spent else 0.0
