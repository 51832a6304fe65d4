"""The name of this machine's processor, for what is said of a measurement."""

import platform
from pathlib import Path


def cpu_model() -> str:
    """As the kernel names it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
