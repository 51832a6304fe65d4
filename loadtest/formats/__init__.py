"""Readers of trace formats, one file each, into a Workload (traces/workload.py); and names of what needs no trace."""

from pathlib import Path

from dualmap.loadtest.traces.hot_prefix import is_synthetic, synthetic
from dualmap.loadtest.traces.trace import TraceError
from dualmap.loadtest.traces.workload import Workload

FORMATS = ("mooncake", "weka", "lmcache", "azure", "run")
_HEAD_BYTES = 65536


def read_workload(path: str | Path, format: str = "auto", *, turns: bool = False, seed: int = 0) -> Workload:
    """Any trace, or one of the workloads of dualmap.loadtest.traces.hot_prefix by its name, such as synth:hot.

    format: one of FORMATS, or auto to tell by the content.
    turns: for formats that have arrivals only, let a follow-up wait for the turn before; agent traces always do.
    seed: for what a format leaves open and has to be made up (azure).
    Raises TraceError, which names the file, the line and what is wrong.
    """
    if is_synthetic(str(path)):
        return synthetic(str(path), seed=seed)
    if format == "auto":
        format = detect(path)
    match format:  # each reader is imported when it is needed: `dualmap trace --help` needs none
        case "mooncake":
            from dualmap.loadtest.formats.mooncake import read_mooncake

            return read_mooncake(path, turns=turns)
        case "weka":
            from dualmap.loadtest.formats.weka import read_weka

            return read_weka(path)
        case "lmcache":
            from dualmap.loadtest.formats.lmcache import read_lmcache

            return read_lmcache(path)
        case "azure":
            from dualmap.loadtest.formats.azure import read_azure

            return read_azure(path, seed=seed, turns=turns)
        case "run":
            from dualmap.loadtest.formats.run_log import read_run_log

            return read_run_log(path)
    raise TraceError(f"{path}: unknown format {format!r}; known are {', '.join(FORMATS)}")


def detect(path: str | Path) -> str:
    """The format of a file, or of the first file in a directory. Raises TraceError."""
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl"))
        if not files:
            raise TraceError(f"{path}: no *.json or *.jsonl in it")
        path = files[0]
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    first_line = head.partition(b"\n")[0]
    if first_line.startswith(b"TIMESTAMP,"):
        return "azure"
    if b'"row":"run"' in first_line:
        return "run"
    if b'"hash_id_scope"' in head or (b'"block_size"' in head and b'"requests"' in head):
        return "weka"
    if b'"session_id"' in head and b'"output"' in head:
        return "lmcache"
    if first_line.startswith(b"{") or not head:
        return "mooncake"
    raise TraceError(f"{path}, line 1: none of the formats {', '.join(FORMATS)} begins like this")
