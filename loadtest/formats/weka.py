"""Coding-agent sessions in the format of callanjfox/kv-cache-tester (traces/): a JSON file each.

    {"id": ..., "block_size": 64, "hash_id_scope": "local", "requests": [
        {"t": 12.0, "type": "s", "in": 20225, "out": 158, "hash_ids": [1, 2, ...], "api_time": 5.92},
        {"t": 79.2, "type": "subagent", "duration_ms": 59750, "requests": [...]}, ...]}

`hash_ids` are those of the prompt's full blocks of 64 tokens and mean the same only within a file, so the file's name
goes into the hashes; 8 of them make a block of 512. A request waits for the one before it; what the trace leaves
between the end of that one (t + api_time) and t is thinking: the time of tools and people. A request that lacks
api_time is taken to have had the pace of the others in its file.

A sub-agent's `t` is when it ended, in seconds of its parent's clock; duration_ms before it began, right after the
parent's request that called it, and from there its own requests count their `t`. Sub-agents of one call run side by
side. The parent's next request waits for the one that ended last; one that was still running by then is not waited
for. Sub-agents on another model are treated as if they ran on the same. All sessions start at second 0; spread them
with `dualmap.loadtest.traces.workload_scale.resample_sessions`.
"""

import json
from array import array
from pathlib import Path
from statistics import median
from typing import Any

from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceError
from dualmap.loadtest.traces.workload import Workload, WorkRequest, fill_answer_blocks, in_order
from dualmap.scheduler.blocks import hash_text, root_hash

_SUBAGENT = "subagent"
_TOKEN_TIME_S = 0.03  # of an answer, in a file that times none
_ID_BYTES = array("Q").itemsize


def read_weka(path: str | Path) -> Workload:
    """path: a file, or a directory of *.json. Raises TraceError, which names file and request."""
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise TraceError(f"{path}: no *.json in it")
    requests: list[WorkRequest] = []
    continues: list[int | None] = []
    for session, file in enumerate(files):
        _Session(file, session, requests, continues).read()
    if not requests:
        raise TraceError(f"{path}: no request in it")
    fill_answer_blocks(requests, continues)
    return in_order(path.stem, requests)


class _Session:
    """One file, appended to `requests`; `continues` has the turn before in the same agent's conversation."""

    def __init__(self, file: Path, session: int, requests: list[WorkRequest], continues: list[int | None]) -> None:
        self._file = file
        self._session = session
        self._requests = requests
        self._continues = continues
        self._root = root_hash(b"weka", file.stem.encode())
        self._block_size = 0
        self._token_time_s = _TOKEN_TIME_S

    def read(self) -> None:
        try:
            data = json.loads(self._file.read_bytes())
        except OSError as error:
            raise TraceError(f"{self._file}: {error.strerror or error}") from error
        except ValueError as error:
            raise TraceError(f"{self._file}: not JSON ({error})") from None
        if not isinstance(data, dict) or not isinstance(data.get("requests"), list):
            raise TraceError(f"{self._file}: expected an object with a list of requests")
        self._block_size = data.get("block_size", 64)
        if type(self._block_size) is not int or self._block_size < 1 or BLOCK_TOKENS % self._block_size:
            raise TraceError(f"{self._file}: block_size must divide {BLOCK_TOKENS}, found {self._block_size!r}")
        self._token_time_s = self._pace_s(data["requests"])
        self._agent(data["requests"], 0.0, None, 0.0, "requests")

    def _pace_s(self, rows: list[Any]) -> float:
        paces = [r["api_time"] / r["out"] for r in rows if isinstance(r, dict) and r.get("api_time") and r.get("out")]
        return median(paces) if paces else _TOKEN_TIME_S

    def _agent(
        self, rows: list[Any], origin_s: float, after: int | None, after_end_s: float, where: str
    ) -> tuple[int | None, float]:
        """One agent's requests and its sub-agents'. Returns its last request and when that ended, in trace time.

        after, after_end_s: what its first request waits for. where: the rows' place in the file, for messages.
        """
        turn: int | None = None
        running: list[tuple[float, int]] = []  # (end, last request) of sub-agents called by the turn before
        for number, row in enumerate(rows):
            place = f"{where}[{number}]"
            if not isinstance(row, dict):
                raise TraceError(f"{self._file}, {place}: expected an object, found {type(row).__name__}")
            at_s = origin_s + self._number(row, "t", place)
            if row.get("type") == _SUBAGENT:
                began_s = max(at_s - self._number(row, "duration_ms", place) / 1000, origin_s)
                inner = row.get("requests")
                if not isinstance(inner, list):
                    raise TraceError(f"{self._file}, {place}: a sub-agent needs a list of requests")
                last, end_s = self._agent(inner, began_s, after, after_end_s, f"{place}.requests")
                if inner and last is not None:
                    running.append((end_s, last))
                continue
            done = [(end_s, last) for end_s, last in running if end_s <= at_s]
            if done and max(done)[0] >= after_end_s:
                after_end_s, after = max(done)
            running = []
            out_tokens = max(int(self._number(row, "out", place)), 1)
            self._requests.append(self._request(row, place, at_s, out_tokens, after, after_end_s))
            self._continues.append(turn)
            turn = after = len(self._requests) - 1
            after_end_s = at_s + float(row.get("api_time") or out_tokens * self._token_time_s)
        return after, after_end_s

    def _request(
        self, row: dict[str, Any], place: str, at_s: float, out_tokens: int, after: int | None, after_end_s: float
    ) -> WorkRequest:
        prompt_tokens = max(int(self._number(row, "in", place)), 1)
        ids = row.get("hash_ids")
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**64 for i in ids):
            raise TraceError(f"{self._file}, {place}: hash_ids must be a list of non-negative integers")
        per_block = BLOCK_TOKENS // self._block_size
        full = min(prompt_tokens // BLOCK_TOKENS, len(ids) // per_block)
        packed = array("Q", ids[: full * per_block]).tobytes()
        return WorkRequest(
            arrival_s=at_s,
            prompt_tokens=prompt_tokens,
            output_tokens=out_tokens,
            blocks=hash_text(packed, per_block * _ID_BYTES, parent=self._root),
            session=self._session,
            after=after,
            think_s=max(at_s - after_end_s, 0.0) if after is not None else 0.0,
        )

    def _number(self, row: dict[str, Any], key: str, place: str) -> float:
        value = row.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise TraceError(f"{self._file}, {place}: {key} must be a number of at least 0, found {value!r}")
        return value
