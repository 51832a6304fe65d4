"""Seeded schedules of blows against a real deployment under load, each judged by its histories:
`python -m dualmap.loadtest.experiments.nemesis --seed 1 --schedules 30`.

Each schedule has a deployment of its own: two gateways, three simulated instances, journals. Servers, their keepers,
actors, Ray's GCS and `dualmap up` are killed, stopped for a while or told to end; the disk of journals and logs is
filled where a small one can be mounted. Then the journals and what the clients saw are held against each other.
"""

import argparse
import asyncio
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml

from dualmap.loadtest.cli.replay import positive
from dualmap.loadtest.experiments.deployed import Deployed, DeploymentError, deployed
from dualmap.loadtest.experiments.kill_run import servers
from dualmap.loadtest.experiments.nemesis_clients import Seen, draw_requests, send_all
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.histories.faults import Fault, Rule
from dualmap.loadtest.histories.journals import judge, read_history
from dualmap.loadtest.histories.keys import key_faults
from dualmap.loadtest.histories.rows import row_faults

SECONDS = 60.0
QPS = 4.0
INSTANCES, GATEWAYS = 3, 2
KEYS = {"dm-one": 120.0, "dm-two": 600.0}  # requests a minute
DISK_MIB = 4
SHOWN = 8  # faults of a schedule
HOW = ("kill", "stop", "end")
MAY_CUT = ("gateway", "gcs", "up")  # what carries answers, or all that does; another's end cuts none
PARTS: dict[str, Callable[[Deployed], list[int]]] = {
    "server": servers,
    "keeper": lambda deployment: deployment.command_pids("dualmap.instances.server.keeper"),
    "instance": lambda deployment: deployment.actor_pids("InstanceActor"),
    "fleet": lambda deployment: deployment.actor_pids("Fleet"),
    "rebalancer": lambda deployment: deployment.actor_pids("Rebalancer"),
    "autoscaler": lambda deployment: deployment.actor_pids("Autoscaler"),
    "gateway": lambda deployment: deployment.actor_pids("GatewayActor"),
    "gcs": lambda deployment: deployment.command_pids("gcs_server"),
    "up": lambda deployment: [deployment.process.pid],
}


@dataclass(frozen=True, slots=True)
class Strike:
    """how: kill (SIGKILL), stop (SIGSTOP, and SIGCONT after `seconds`), end (SIGTERM), or fill, of the disk. place: of
    the part's processes, the oldest first, counted around."""

    at_s: float
    part: str
    how: str
    place: int
    seconds: float

    def __str__(self) -> str:
        much = f" for {self.seconds:.0f} s" if self.how in ("stop", "fill") else ""
        return f"{self.at_s:.0f} s {self.how} {self.part} {self.place}{much}"


def draw_strikes(seed: int, seconds: float, *, disk: bool) -> list[Strike]:
    """2 to 5, `dualmap up` and the GCS seldom and last, since all ends with them."""
    rng = random.Random(f"strikes {seed}")
    parts = [part for part in PARTS if part not in ("gcs", "up")] + (["disk"] if disk else [])
    strikes = []
    for _ in range(rng.randint(2, 5)):
        part = rng.choice(parts)
        how = "fill" if part == "disk" else rng.choice(HOW)
        at_s = rng.uniform(0.1, 0.8) * seconds
        strikes.append(Strike(at_s, part, how, rng.randrange(4), rng.uniform(2.0, 0.3 * seconds)))
    if seed % 5 == 4:
        part = rng.choice(("gcs", "up"))
        how = "kill" if part == "gcs" else rng.choice(("kill", "end", "stop"))
        strikes.append(Strike(0.85 * seconds, part, how, 0, 5.0))
    return sorted(strikes, key=lambda strike: strike.at_s)


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
    with small_disk(out / "disk") as disk:
        folder = disk or out / "disk"
        strikes = draw_strikes(seed, seconds, disk=disk is not None)
        hit: list[str] = []
        with deployed(_config(out, folder), out) as deployment:
            stop = threading.Event()
            striker = threading.Thread(target=_strike_all, args=(deployment, strikes, folder, hit, stop), daemon=True)
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


def _config(out: Path, folder: Path) -> dict[str, object]:
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
    return {"simulate": {"count": INSTANCES}, "gateway": gateway}


def _strike_all(
    deployment: Deployed, strikes: Sequence[Strike], folder: Path, hit: list[str], stop: threading.Event
) -> None:
    """What is stopped goes on in the end, whatever happens. hit: is told each."""
    began_s = time.monotonic()
    undo: list[tuple[float, Callable[[], None]]] = []
    left = list(strikes)
    while (left or undo) and not stop.is_set():
        now_s = time.monotonic() - began_s
        for due in [entry for entry in undo if entry[0] <= now_s]:
            undo.remove(due)
            due[1]()
        while left and left[0].at_s <= now_s:
            strike = left.pop(0)
            undone = _strike(deployment, strike, folder)
            hit.append(f"{strike}{'' if undone else ' (not there)'}")
            if undone:
                undo.append((now_s + strike.seconds, undone))
        stop.wait(0.1)
    for _, undone in undo:
        undone()


def _strike(deployment: Deployed, strike: Strike, folder: Path) -> Callable[[], None] | None:
    """Returns what undoes it; None where there is no such process."""
    if strike.how == "fill":
        filler = folder / "filler"
        with filler.open("wb") as file:
            try:
                while file.write(bytes(65536)):
                    file.flush()
            except OSError:
                pass
        return lambda: filler.unlink(missing_ok=True)
    pids = PARTS[strike.part](deployment)
    if not pids:
        return None
    pid = pids[strike.place % len(pids)]
    number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "end": signal.SIGTERM}[strike.how]
    if not _signal(pid, number):
        return None

    def undo() -> None:
        if strike.how == "stop":
            _signal(pid, signal.SIGCONT)

    return undo


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


END_TIMEOUT_S = 60.0


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
        _signal(one.pid, signal.SIGKILL)
    return found


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
