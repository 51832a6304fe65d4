"""Seeded schedules of blows against a real deployment under load, each judged by its histories:
`python -m dualmap.loadtest.experiments.nemesis --seed 1 --schedules 30`.

Each schedule has a deployment of its own: two gateways, three simulated instances and two behind a bad network, where
that can be had (wire.py), and journals. Servers, their keepers, actors, Ray's GCS and `dualmap up` are killed, stopped
for a while or told to end; the disk of journals and logs is filled where a small one can be mounted. Then the journals
and what the clients saw are held against each other.
"""

import argparse
import asyncio
import hashlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml

from dualmap.loadtest.cli.replay import positive
from dualmap.loadtest.experiments.deployed import Deployed, DeploymentError, deployed
from dualmap.loadtest.experiments.nemesis_clients import Seen, draw_requests, send_all
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.strikes import draw_strikes, send_signal, strike_all
from dualmap.loadtest.experiments.wire import Wire, WireError, wire
from dualmap.loadtest.histories.faults import Fault, Rule
from dualmap.loadtest.histories.journals import judge, read_history
from dualmap.loadtest.histories.keys import key_faults
from dualmap.loadtest.histories.rows import row_faults

SECONDS = 60.0
QPS = 4.0
INSTANCES, FAR, GATEWAYS = 3, 2, 2  # started by `dualmap up`; behind a bad network
FAR_PORT = 8100
KEYS = {"dm-one": 120.0, "dm-two": 600.0}  # requests a minute
DISK_MIB = 4
END_TIMEOUT_S = 60.0
SHOWN = 8  # faults of a schedule
MAY_CUT = ("gateway", "gcs", "up")  # what carries answers, or all that does; another's end cuts none


@dataclass(frozen=True, slots=True)
class Went:
    """How a schedule went. hit: what each strike did."""

    seed: int
    hit: list[str]
    seen: Seen
    continued: int
    faults: list[Fault]


def strike_once(seed: int, out: Path, seconds: float, qps: float) -> Went:
    """Raises DeploymentError where it does not even start."""
    out.mkdir(parents=True, exist_ok=True)
    with small_disk(out / "disk") as disk, far_servers(seed, out) as (bad_wire, urls):
        folder = disk or out / "disk"
        strikes = draw_strikes(seed, seconds, disk=disk is not None, wire=bad_wire is not None)
        hit: list[str] = []
        with deployed(_config(out, folder, urls), out) as deployment:
            stop = threading.Event()
            arguments = (deployment, strikes, folder, bad_wire, hit, stop)
            striker = threading.Thread(target=strike_all, args=arguments, daemon=True)
            striker.start()
            seen = asyncio.run(send_all(deployment.port, draw_requests(seed, seconds, qps, tuple(KEYS))))
            stop.set()
            striker.join()
            ended = _end(deployment)
        judged = [judge(read_history(path)) for path in sorted(folder.glob("journal*"))]
    faults = [*ended, *seen.faults, *(fault for one in judged for fault in one.faults), *row_faults(seen.rows, judged)]
    faults += key_faults(seen.keys, KEYS, GATEWAYS)
    if not any(strike.part in MAY_CUT for strike in strikes):
        cut = [row for row in seen.rows if row.index in seen.cut_off]
        faults += [Fault(Rule.ENDS_ONCE, row.request_id, f"is cut off: {row.detail}", "clients") for row in cut]
    continued = sum(life.continued for one in judged for life in one.lives.by_id.values())
    return Went(seed, hit, seen, continued, faults)


def _config(out: Path, folder: Path, urls: Sequence[str]) -> dict[str, object]:
    keys = out / "keys.yaml"
    entries = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": key, "requests_per_minute": limit}
        for key, limit in KEYS.items()
    ]
    keys.write_text(yaml.safe_dump({"keys": entries}))
    gateway = {
        "count": GATEWAYS,
        "journal": str(folder.absolute() / "journal.jsonl"),
        "api_keys_file": str(keys.absolute()),
    }
    far = [{"url": url} for url in urls]
    return {"simulate": {"count": INSTANCES}, "instances": far, "gateway": gateway}


def _end(deployment: Deployed) -> list[Fault]:
    """End it as users do; nothing of it may be there after that."""
    process = deployment.process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(END_TIMEOUT_S)
        found = []
    except subprocess.TimeoutExpired:
        process.kill()
        found = [Fault(Rule.ENDS_ONCE, "dualmap up", f"does not end within {END_TIMEOUT_S:g} s of SIGINT", "processes")]
    give_up_at = time.monotonic() + END_TIMEOUT_S
    while (left := deployment.processes()) and time.monotonic() < give_up_at:
        time.sleep(0.5)
    for one in left:
        found.append(
            Fault(Rule.GIVEN_BACK, str(one.pid), f"is left: {' '.join(one.info['cmdline'] or ())[:80]}", "processes")
        )
        send_signal(one.pid, signal.SIGKILL)
    return found


@contextmanager
def far_servers(seed: int, out: Path) -> Iterator[tuple[Wire | None, list[str]]]:
    """Behind a bad network; none where that cannot be had."""
    with ExitStack() as undo:
        try:
            bad_wire = undo.enter_context(wire(seed))
        except WireError as error:
            print(f"no bad network here: {error}")
            yield None, []
            return
        urls = []
        for place in range(FAR):
            port = FAR_PORT + place
            server = (
                sys.executable,
                "-m",
                "dualmap.instances.simulated.cli",
                "--host",
                bad_wire.there,
                "--port",
                str(port),
            )
            log = undo.enter_context((out / f"far-{place}.log").open("wb"))
            process = subprocess.Popen(bad_wire.command(*server), stdout=log, stderr=log)
            undo.callback(process.wait)
            undo.callback(process.terminate)
            urls.append(f"http://{bad_wire.there}:{port}")
        yield bad_wire, urls


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of its own; None where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("journal*"):
        old.unlink()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    logs = folder.parent / "logs"
    if not logs.is_symlink():
        shutil.rmtree(logs, ignore_errors=True)
    if logs.is_symlink():
        logs.unlink()
    (folder / "logs").mkdir()
    logs.symlink_to((folder / "logs").absolute())
    try:
        yield folder
    finally:
        logs.unlink(missing_ok=True)
        shutil.copytree(folder / "logs", logs, dirs_exist_ok=True)
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the first schedule (0)")
    parser.add_argument("--schedules", type=int, default=1, metavar="N", help="how many, with seeds from S on (1)")
    parser.add_argument("--seconds", type=positive, default=SECONDS, metavar="S", help=f"of each ({SECONDS:g})")
    parser.add_argument("--qps", type=positive, default=QPS, metavar="Q", help=f"requests a second ({QPS:g})")
    parser.add_argument("--out", type=Path, default=Path("runs/nemesis"), metavar="DIR", help="(runs/nemesis)")


def run(args: argparse.Namespace) -> int:
    """1 if something is wrong with a schedule, or one could not run."""
    total, cut, continued, failed = Counter[str](), 0, 0, 0
    for seed in range(args.seed, args.seed + args.schedules):
        try:
            went = strike_once(seed, args.out / str(seed), args.seconds, args.qps)
        except DeploymentError as error:
            print(f"seed {seed}: {error}", file=sys.stderr)
            failed += 1
            continue
        total += went.seen.outcomes
        cut += len(went.seen.cut_off)
        continued += went.continued
        failed += bool(went.faults)
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(went.seen.outcomes.items()))
        print(f"seed {seed}: {'; '.join(went.hit)}")
        print(f"    {told}, {len(went.seen.cut_off)} cut off, {went.continued} went on; {len(went.faults)} faults")
        for fault in went.faults[:SHOWN]:
            print(f"    {fault}")
        sys.stdout.flush()
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(total.items()))
    print(f"{date.today().isoformat()}: {args.schedules} schedules of {args.seconds:g} s, {failed} with faults")
    print(f"{told}; {cut} cut off, {continued} times an answer went on elsewhere")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
