"""Agent runs with their text (LMCache/lmcache-agent-trace), a call a line:

    {"timestamp": 1760587752017385, "input": "...", "output": "...", "session_id": "..."}

`timestamp` is in us, when the call began, and lines are not in its order. `input` is only what users and tools said so
far: it grows from call to call, but the model's answers are missing from it (but for those that a run wrote into a
message of its own), and one session may hold several conversations (a simulated user and the agent that it talks to).
So the prompt is put together again: where the input begins with that of an earlier call of the session, the prompt is
that call's prompt, its answer unless the rest has it, and the rest of the input. The longest such earlier input counts,
and of equal ones the last. System prompts are not in the trace at all.

4 bytes are a token, 2,048 bytes a block. An empty output is a tool call whose text the trace lacks; it counts as
TOOL_CALL_TOKENS. Calls of a session follow one another. The time between two is mostly the first one's own, so only
what is beyond the quickest calls' pace is thinking.
"""

from pathlib import Path
from typing import Any, NamedTuple

from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceError, read_objects
from dualmap.loadtest.traces.workload import Workload, WorkRequest, in_order
from dualmap.scheduler.blocks import hash_text

BYTES_PER_TOKEN = 4
TOOL_CALL_TOKENS = 32  # what fits into the 0.2 s of the quickest calls without text
_TOKEN_TIME_S = 0.007  # of an answer, in the quickest calls with text
_BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN


class _Call(NamedTuple):
    timestamp_us: int
    input: str
    output: str


def read_lmcache(path: str | Path) -> Workload:
    """path: a file, or a directory of *.jsonl. Raises TraceError."""
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    sessions: dict[str, list[_Call]] = {}
    for file in files:
        for session_id, call in read_objects(file, _read_call):
            sessions.setdefault(session_id, []).append(call)
    if not sessions:
        raise TraceError(f"{path}: no request in it")
    origin_us = min(call.timestamp_us for calls in sessions.values() for call in calls)
    requests: list[WorkRequest] = []
    for number, calls in enumerate(sessions.values()):
        calls.sort(key=lambda call: call.timestamp_us)
        _append_session(requests, calls, number, origin_us)
    return in_order(path.stem, requests)


def _append_session(requests: list[WorkRequest], calls: list[_Call], session: int, origin_us: int) -> None:
    latest: dict[str, int] = {}  # input -> the last call that sent it
    prompts: list[str] = []
    for index, call in enumerate(calls):
        prompts.append(_prompt(call, calls, prompts, latest))
        if call.input:
            latest[call.input] = index
        prompt, answer = prompts[-1].encode(), call.output.encode()
        request = WorkRequest(
            arrival_s=(call.timestamp_us - origin_us) / 1e6,
            prompt_tokens=max(-(-len(prompt) // BYTES_PER_TOKEN), 1),
            output_tokens=-(-len(answer) // BYTES_PER_TOKEN) or TOOL_CALL_TOKENS,
            blocks=hash_text(prompt, _BLOCK_BYTES),
            session=session,
        )
        if (whole := len(prompt) + len(answer)) >= _BLOCK_BYTES and answer:
            full = len(prompt) // _BLOCK_BYTES
            request.answer_blocks = hash_text(prompt + answer, _BLOCK_BYTES)[full : whole // _BLOCK_BYTES]
        if index:
            gap_s = (call.timestamp_us - calls[index - 1].timestamp_us) / 1e6
            request.after = len(requests) - 1
            request.think_s = max(gap_s - requests[-1].output_tokens * _TOKEN_TIME_S, 0.0)
        requests.append(request)


def _prompt(call: _Call, calls: list[_Call], prompts: list[str], latest: dict[str, int]) -> str:
    """The conversation so far."""
    earlier = max((text for text in latest if call.input.startswith(text)), key=len, default=None)
    if earlier is None:
        return call.input
    before = latest[earlier]
    rest = call.input[len(earlier) :]
    answer = calls[before].output
    return prompts[before] + rest if answer in rest else prompts[before] + answer + rest


def _read_call(row: dict[str, Any]) -> tuple[str, _Call]:
    """Its session, and what it was."""
    timestamp_us = row.get("timestamp")
    if type(timestamp_us) is not int or timestamp_us < 0:
        raise ValueError(f"timestamp must be microseconds, found {timestamp_us!r}")
    for key in ("input", "output", "session_id"):
        if not isinstance(row.get(key), str):
            raise ValueError(f"{key} must be a string, found {row.get(key)!r}")
    return row["session_id"], _Call(timestamp_us, row["input"], row["output"])
