"""One target, one process: inputs until the time or the count is over, each within its bound."""

import gc
import resource
import time
from pathlib import Path

from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target

MOST_CPU_S = 1.0  # of one input of some KiB, where an ordinary one takes 1 ms at most
MOST_GROWTH_BYTES = 24 << 20  # of the process, once a tenth of the inputs has been seen
_PAGE_BYTES = resource.getpagesize()


class BrokenPropertyError(Exception):
    """The message holds the input."""


def run(target: Target, seconds: float, most: int, seed: int) -> int:
    """Returns how many inputs were tried. Raises BrokenPropertyError."""
    mutator = Mutator(target, seed)
    count = 0
    for data in target.corpus():
        _check(target, data)
    begun = time.monotonic()
    grown_from = 0
    while count < most and (passed_s := time.monotonic() - begun) < seconds:
        _check(target, mutator.input())
        count += 1
        if not grown_from and (passed_s > seconds / 10 or count > most / 10):
            grown_from = _resident_bytes()
    grown = _resident_bytes() - grown_from if grown_from else 0
    if grown > MOST_GROWTH_BYTES:
        raise BrokenPropertyError(f"{target.name}: {grown >> 20} MiB more after {count} inputs")
    return count


def _check(target: Target, data: bytes) -> None:
    begun = time.thread_time()
    try:
        target.check(data)
    except Exception as error:
        raise BrokenPropertyError(f"{target.name}: {error!r:.500} by {_shrunk(target, data, error)!r}") from error
    cpu_s = time.thread_time() - begun
    if cpu_s > MOST_CPU_S:
        raise BrokenPropertyError(f"{target.name}: {cpu_s:.1f} s of CPU by {data!r}")


def _shrunk(target: Target, data: bytes, error: Exception) -> bytes:
    """A part of the input, its first byte kept, that fails alike."""
    width = len(data) // 2
    while width:
        start = 1
        while start < len(data):
            part = data[:start] + data[start + width :]
            try:
                target.check(part)
            except Exception as again:
                if type(again) is type(error) and str(again)[:40] == str(error)[:40]:
                    data = part
                    continue
            start += width
        width //= 2
    return data


def _resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
