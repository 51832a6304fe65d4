"""AIPerf, a client that others wrote: its command for a trace in Mooncake's format, and the files it leaves.

It makes prompts of its own for the trace's block ids. Its tokenizer needs the encodings of tiktoken in a folder: those
in litellm's wheel will do (`pip download --no-deps litellm`, litellm/litellm_core_utils/tokenizers).
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from dualmap.loadtest.experiments.peers_measured import Answer, Objectives

RECORDS = "profile_export.jsonl"
SUMMARY = "profile_export_aiperf.json"
ENCODINGS_VARIABLE = "TIKTOKEN_CACHE_DIR"


class AiperfError(RuntimeError):
    """It did not come to an end, or left no such file as is known."""


def aiperf(
    environment: Path, url: str, model: str, trace: Path, objectives: Objectives, folder: Path, limit_s: float
) -> None:
    """Replay a trace by its timestamps. limit_s: of the whole. Raises AiperfError, with where its output is."""
    goodput = f"time_to_first_token:{objectives.ttft_s * 1000:g} inter_token_latency:{objectives.tpot_s * 1000:g}"
    command = [
        *(str(environment / "bin/python"), "-m", "aiperf", "profile", "--model", model, "--url", url),
        *("--endpoint-type", "chat", "--streaming", "--use-server-token-count", "--tokenizer", "builtin"),
        *("--input-file", str(trace), "--custom-dataset-type", "mooncake_trace", "--fixed-schedule"),
        *("--fixed-schedule-auto-offset", "--extra-inputs", "ignore_eos:true", "--goodput", goodput),
        *("--workers-max", "2", "--record-processors", "1", "--no-server-metrics", "--no-gpu-telemetry"),
        *("--ui", "none", "--artifact-dir", str(folder), "--request-timeout-seconds", f"{limit_s:g}"),
    ]
    log = folder / "aiperf.log"
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "AIPERF_UI_MIN_UPDATE_PERCENT": "25"}
    with open(log, "wb") as output:
        try:
            subprocess.run(command, stdout=output, stderr=output, env=env, timeout=limit_s, check=True)
        except subprocess.SubprocessError as error:
            raise AiperfError(f"AIPerf: {type(error).__name__}, see {log}") from error


def read_answers(folder: Path) -> list[Answer]:
    """Of the profiled requests. Raises AiperfError."""
    try:
        with open(folder / RECORDS, "rb") as lines:
            return [_answer(record) for record in map(json.loads, lines)]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise AiperfError(f"{folder / RECORDS}: {error!r}") from error


def own_goodput(folder: Path) -> float:
    """Requests a second within both objectives, over the time until the last answer, as AIPerf counts it. Raises
    AiperfError."""
    try:
        summary = json.loads((folder / SUMMARY).read_bytes())
        return float(summary["goodput"]["avg"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise AiperfError(f"{folder / SUMMARY}: {error!r}") from error


def _answer(record: dict[str, Any]) -> Answer:
    metrics = record["metrics"]
    if record.get("error"):
        return Answer(ok=False)
    return Answer(
        ok=True,
        ttft_s=_seconds(metrics, "time_to_first_token"),
        e2e_s=_seconds(metrics, "request_latency"),
        inter_token_s=_seconds(metrics, "inter_token_latency"),
    )


def _seconds(metrics: dict[str, Any], name: str) -> float | None:
    """None where a metric does not apply: the time between tokens of an answer of one."""
    if name not in metrics:
        return None
    found = metrics[name]
    return float(found["value"]) / {"ms": 1000, "s": 1, "sec": 1}[found["unit"]]
