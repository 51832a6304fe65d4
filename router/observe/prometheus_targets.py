"""Where Prometheus finds the gateways: a file for its file-based discovery (`file_sd_configs`)."""

import json
import os
from collections.abc import Sequence
from pathlib import Path


def write_targets(path: Path, addresses: Sequence[str]) -> None:
    """HOST:PORT of each gateway's admin endpoints; none once they are stopped. Prometheus never sees half a file.
    Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    whole.write_text(json.dumps([{"targets": list(addresses), "labels": {}}]) + "\n")
    whole.replace(path)
