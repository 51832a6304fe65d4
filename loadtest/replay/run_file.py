"""The file of a replay: a header line with the run's parameters, then a line for each request as it ends (JSONL).

Times are seconds on the replay's own monotonic clock, from the start of the run.
"""

from enum import StrEnum
from pathlib import Path
from typing import IO

import msgspec


class Outcome(StrEnum):
    """How a request ended, as its client saw it."""

    OK = "ok"  # 200, complete stream, finish_reason other than abort
    SHED = "shed"  # 429 or 503: refused, may be tried again
    HTTP_ERROR = "http_error"  # any other status than 200
    BROKEN = "broken"  # cut off: truncated body, error event, no [DONE], finish_reason abort, bad HTTP
    TIMEOUT = "timeout"  # longer than the time allowed for a request
    CONNECT_ERROR = "connect_error"  # no connection, nothing sent
    UNFINISHED = "unfinished"  # the run was stopped or ran into its time limit first


class RunHeader(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="run"):
    """What was run.

    label: name of the run in reports.
    note: what served it (policy, instances, simulated or real), in the words of whoever started it.
    speed: seconds of the trace for each second of the run; qps: the mean arrival rate that results.
    slo_s: time-to-first-token objective that reports measure against unless told otherwise.
    token_ids: prompts were sent as token ids, not as text.
    """

    label: str
    note: str
    started_at: str  # ISO 8601, UTC
    target: str
    path: str
    model: str
    trace: str
    requests: int
    qps: float
    speed: float
    slo_s: float
    request_timeout_s: float
    time_limit_s: float
    max_input_tokens: int | None = None
    token_ids: bool = False


class RequestRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="row", tag="request"):
    """One request.

    index: its place in the replayed trace. after: index of the turn before it in its session.
    scheduled_s: when the trace's clock wanted it. released_s: when it could go, which is later where the turn before it
        was still running; held_back_s is the difference. TTFT and end-to-end count from released_s.
    sent_s: when its last byte was handed to the kernel; None when it never was.
    ttft_s: first event that holds a token. None without one, and for answers that are not 200.
    mean_inter_token_s: from that event to the last byte, divided by the tokens after the first.
    p99_inter_token_s, max_inter_token_s: over the gaps between reads of the body; what comes together is one read.
    e2e_s: until the outcome was known.
    trace_input_tokens, trace_output_tokens: what the trace asked for. prompt_tokens, completion_tokens, cached_tokens:
        what the server's `usage` said; None where it said nothing.
    hash_ids: the trace's block ids of the prompt, so that the file is a workload by itself.
    instance, queue_ms, request_id: response headers x-dualmap-instance, x-dualmap-queue-ms and x-request-id.
    """

    index: int
    outcome: Outcome
    scheduled_s: float
    released_s: float | None = None
    sent_s: float | None = None
    held_back_s: float = 0.0
    ttft_s: float | None = None
    mean_inter_token_s: float | None = None
    p99_inter_token_s: float | None = None
    max_inter_token_s: float | None = None
    e2e_s: float | None = None
    status: int | None = None
    detail: str = ""
    after: int | None = None
    trace_input_tokens: int = 0
    trace_output_tokens: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    hash_ids: tuple[int, ...] = ()
    instance: str | None = None
    queue_ms: float | None = None
    request_id: str | None = None


class RunFileError(ValueError):
    """A file that is not a run. The message names the file, the line and what is wrong with it."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(RunHeader | RequestRow)


def write_row(file: IO[bytes], row: RunHeader | RequestRow) -> None:
    """Append a row; a reader that follows the file sees it at once."""
    file.write(_encoder.encode(row) + b"\n")
    file.flush()


def read_run(path: str | Path) -> tuple[RunHeader, list[RequestRow]]:
    """A run's header and its rows in the order in which the requests ended. Raises RunFileError."""
    header: RunHeader | None = None
    rows: list[RequestRow] = []
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = _decoder.decode(line)
                except msgspec.MsgspecError as error:
                    raise RunFileError(f"{path}, line {number}: {error}") from None
                if isinstance(row, RequestRow):
                    rows.append(row)
                elif header is None:
                    header = row
                else:
                    raise RunFileError(f"{path}, line {number}: a second header")
    except OSError as error:
        raise RunFileError(f"{path}: {error.strerror or error}") from error
    if header is None:
        raise RunFileError(f"{path}: no header line, so this is not the file of a replay")
    return header, rows
