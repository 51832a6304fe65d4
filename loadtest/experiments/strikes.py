"""What a nemesis does to a real deployment: blows drawn from a seed, and how each is dealt and undone."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dualmap.loadtest.experiments.deployed import Deployed
from dualmap.loadtest.experiments.kill_run import servers
from dualmap.loadtest.experiments.wire import Wire

HOW = ("kill", "stop", "end")
DISK, WIRE = "disk", "wire"
WEATHER = ("loses 1 %", "is 200 ms late", "carries nothing out", "carries nothing back", "resets")
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
    """how: kill (SIGKILL), stop (SIGSTOP, and SIGCONT after `seconds`), end (SIGTERM); of the disk: fill; of the wire:
    one of WEATHER, for `seconds`. place: of the part's processes, the oldest first, counted around."""

    at_s: float
    part: str
    how: str
    place: int
    seconds: float

    def __str__(self) -> str:
        much = f" for {self.seconds:.0f} s" if self.how not in ("kill", "end") else ""
        what = f"{self.part} {self.how}" if self.part == WIRE else f"{self.how} {self.part} {self.place}"
        return f"{self.at_s:.0f} s {what}{much}"


def draw_strikes(seed: int, seconds: float, *, disk: bool, wire: bool) -> list[Strike]:
    """2 to 5, `dualmap up` and the GCS seldom and last, since all ends with them."""
    rng = random.Random(f"strikes {seed}")
    parts = [part for part in PARTS if part not in ("gcs", "up")]
    parts += ["server", "server"] + [DISK] * disk + [WIRE, WIRE] * wire
    strikes = []
    for _ in range(rng.randint(2, 5)):
        part = rng.choice(parts)
        how = "fill" if part == DISK else rng.choice(WEATHER if part == WIRE else HOW)
        at_s = rng.uniform(0.1, 0.8) * seconds
        strikes.append(Strike(at_s, part, how, rng.randrange(4), rng.uniform(2.0, 0.3 * seconds)))
    if seed % 5 == 4:
        part = rng.choice(("gcs", "up"))
        how = "kill" if part == "gcs" else rng.choice(("kill", "end", "stop"))
        strikes.append(Strike(0.85 * seconds, part, how, 0, 5.0))
    return sorted(strikes, key=lambda strike: strike.at_s)


def strike_all(
    deployment: Deployed,
    strikes: Sequence[Strike],
    folder: Path,
    wire: Wire | None,
    hit: list[str],
    stop: threading.Event,
) -> None:
    """Until all is done, or `stop`; what is stopped goes on in the end. folder: on the small disk. hit: is told
    each."""
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
            undone = _strike(deployment, strike, folder, wire)
            hit.append(f"{strike}{'' if undone else ' (not there)'}")
            if undone:
                undo.append((now_s + strike.seconds, undone))
        stop.wait(0.1)
    for _, undone in undo:
        undone()


def _strike(deployment: Deployed, strike: Strike, folder: Path, wire: Wire | None) -> Callable[[], None] | None:
    """Returns what undoes it; None where there is no such process."""
    if strike.part == WIRE and wire is not None:
        _worsen(wire, strike.how)
        return wire.clear
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
    if not send_signal(pid, number):
        return None

    def undo() -> None:
        if strike.how == "stop":
            send_signal(pid, signal.SIGCONT)

    return undo


def _worsen(wire: Wire, how: str) -> None:
    for weather in (wire.outward, wire.inward):
        match WEATHER.index(how):
            case 0:
                weather.loss = 0.01
            case 1:
                weather.delay_s = 0.2
            case 2:
                weather.cut = weather is wire.outward
            case 3:
                weather.cut = weather is wire.inward
            case _:
                weather.reset = True


def send_signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
