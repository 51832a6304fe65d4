"""Request traces in the Mooncake format: one JSON object a line.

    {"timestamp": 27000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, ..., 13]}

`hash_ids` has one id for each 512-token block of the prompt, the last one partial unless the length is a multiple. Two
requests that share an id share the whole prefix up to and including that block. Source: kvcache-ai/Mooncake,
FAST25-release (arXiv 2407.00079).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
BLOCK_TOKENS = 512  # tokens a hash id stands for


class TraceError(ValueError):
    """A trace that cannot be read. The message names the file, the line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace.

    timestamp_ms: arrival, from the start of the trace.
    input_length, output_length: tokens.
    hash_ids: one id a block of BLOCK_TOKENS, ceil(input_length / BLOCK_TOKENS) of them.
    """

    timestamp_ms: int
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]

    @property
    def full_blocks(self) -> int:
        return self.input_length // BLOCK_TOKENS


def read_trace(path: str | Path) -> list[TraceRequest]:
    """All requests of a file, in its order, which is that of arrival. Blank lines are skipped.

    Raises TraceError for an unreadable file, a bad line, a timestamp that goes back, or a trace without requests.
    """
    latest_ms = 0

    def read(row: dict[str, Any]) -> TraceRequest:
        nonlocal latest_ms
        request = _request(row)
        if request.timestamp_ms < latest_ms:
            raise ValueError(f"timestamp {request.timestamp_ms} comes after {latest_ms}: sort the trace")
        latest_ms = request.timestamp_ms
        return request

    requests = list(read_objects(path, read))
    if not requests:
        raise TraceError(f"{path}: no request in it")
    return requests


def read_objects(path: str | Path, read: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """What `read` makes of the JSON object on each line; its ValueErrors are told with the line's number. Blank lines
    are skipped. Raises TraceError."""
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    found = read(_object(line))
                except ValueError as error:
                    raise TraceError(f"{path}, line {number}: {error}") from None
                yield found
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error


def write_trace(path: str | Path, requests: Iterable[TraceRequest]) -> None:
    """Write requests as `read_trace` reads them."""
    with open(path, "w", encoding="ascii") as file:
        for request in requests:
            row = {
                "timestamp": request.timestamp_ms,
                "input_length": request.input_length,
                "output_length": request.output_length,
                "hash_ids": list(request.hash_ids),
            }
            file.write(json.dumps(row) + "\n")


def select(
    requests: Sequence[TraceRequest], *, limit: int | None = None, max_input_tokens: int | None = None
) -> list[TraceRequest]:
    """The first `limit` of the requests whose prompt is not longer than max_input_tokens."""
    fitting = [r for r in requests if max_input_tokens is None or r.input_length <= max_input_tokens]
    return fitting[:limit]


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {type(row).__name__}")
    return row


def _request(row: dict[str, Any]) -> TraceRequest:
    timestamp_ms = _integer(row, "timestamp", least=0)
    input_length = _integer(row, "input_length", least=1)
    output_length = _integer(row, "output_length", least=1)
    hash_ids = row.get("hash_ids")
    if not isinstance(hash_ids, list) or not all(type(i) is int and i >= 0 for i in hash_ids):
        raise ValueError("hash_ids must be a list of non-negative integers")
    expected = -(-input_length // BLOCK_TOKENS)
    if len(hash_ids) != expected:
        raise ValueError(
            f"{input_length} input tokens need {expected} hash_ids of {BLOCK_TOKENS} tokens, found {len(hash_ids)}"
        )
    return TraceRequest(timestamp_ms, input_length, output_length, tuple(hash_ids))


def _integer(row: dict[str, Any], key: str, least: int) -> int:
    if key not in row:
        raise ValueError(f"{key} is missing")
    value = row[key]
    if type(value) is not int or value < least:
        raise ValueError(f"{key} must be an integer of at least {least}, found {value!r}")
    return value
