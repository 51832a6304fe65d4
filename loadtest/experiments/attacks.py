"""What harm a client can do to others: `python -m dualmap.loadtest.experiments.attacks`.

A gateway in front of one server that costs nothing; another client streams all the while. For each attack: what came of
it, how long the other client's first tokens took, how long the gateway took CPU, and its memory at most and afterwards.
"""

import argparse
import http.client
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from dualmap.loadtest.experiments.attack_kinds import HOST, Attack, attacks
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.stub_fleet import stub_fleet
from dualmap.loadtest.overhead.measured_proxy import DEFAULT_GATEWAY, MeasuredProxy, ProxyError, gateway
from dualmap.loadtest.reports.aligned_rows import aligned

ASK = b'{"model":"stub","stream":true,"messages":[{"role":"user","content":"hi"}]}'
PAUSE_S = 0.01
SETTLE_S = 1.0
MIB = 1 << 20
HEADINGS = (
    *("attack", "came of it", "TTFT P50", "P99", "longest", "failed"),
    *("gateway's CPU", "memory before", "at most", "after"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mib", type=int, default=15, metavar="N", help="of large bodies (15)")
    parser.add_argument("--most-cpu", type=float, default=5.0, metavar="S", help="of the gateway, for an attack (5)")
    parser.add_argument("--only", default="", metavar="TEXT", help="attacks whose names have that text")


class Watch:
    """ttfts_s: of another client, who asks all the time. failed: his requests without an answer. peak_bytes: of the
    gateway's memory."""

    def __init__(self, proxy: MeasuredProxy) -> None:
        self.ttfts_s: list[float] = []
        self.failed = 0
        self.peak_bytes = 0
        self._proxy = proxy
        self._process = psutil.Process(proxy.pid)
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask), threading.Thread(target=self._look)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def memory_bytes(self) -> int:
        return int(self._process.memory_info().rss)

    def _look(self) -> None:
        while not self._stop.wait(PAUSE_S):
            self.peak_bytes = max(self.peak_bytes, self.memory_bytes())

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(HOST, self._proxy.port, timeout=60)
        while not self._stop.wait(PAUSE_S):
            began = time.monotonic()
            try:
                connection.request("POST", "/v1/chat/completions", ASK)
                answer = connection.getresponse()
                answer.readline()
                self.ttfts_s.append(time.monotonic() - began)
                answer.read()
                self.failed += answer.status != 200
            except (OSError, http.client.HTTPException):
                self.failed += 1
                connection.close()
        connection.close()


def run(args: argparse.Namespace) -> int:
    """1 if the gateway cannot run, took too long, or another client's request was not answered."""
    kinds: dict[str, Attack] = {"none": _nothing}
    kinds |= {name: attack for name, attack in attacks(args.mib).items() if args.only in name}
    rows: list[tuple[str, ...]] = [HEADINGS]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="dualmap-attacks-") as folder, stub_fleet(1) as fleet:
        try:
            with gateway(DEFAULT_GATEWAY, list(fleet.ports), Path(folder)) as proxy:
                for name, attack in kinds.items():
                    row, missed = _measured(name, attack, proxy, args.most_cpu)
                    print("  ".join(row), file=sys.stderr, flush=True)
                    rows.append(row)
                    failed += missed
        except ProxyError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    print("\n".join(aligned(rows)))
    return 1 if failed else 0


def _nothing(port: int) -> str:
    time.sleep(2.0)
    return ""


def _measured(name: str, attack: Attack, proxy: MeasuredProxy, most_cpu_s: float) -> tuple[tuple[str, ...], int]:
    """Its row, and how much of it was wrong."""
    watch = Watch(proxy)
    before_bytes, before_s = watch.memory_bytes(), proxy.cpu_s()
    with watch.running():
        outcome = attack(proxy.port)
        time.sleep(PAUSE_S * 10)
    cpu_s = proxy.cpu_s() - before_s
    time.sleep(SETTLE_S)
    ttfts = sorted(watch.ttfts_s) or [float("nan")]
    times = (ttfts[len(ttfts) // 2], ttfts[len(ttfts) * 99 // 100], ttfts[-1])
    sizes = (before_bytes, watch.peak_bytes, watch.memory_bytes())
    told = (*(f"{t * 1e3:.0f} ms" for t in times), str(watch.failed), f"{cpu_s:.2f} s")
    return (name, outcome, *told, *(f"{size / MIB:.0f} MiB" for size in sizes)), watch.failed + (cpu_s > most_cpu_s)


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
