"""Azure's public traces (Azure/AzurePublicDataset, AzureLLMInferenceTrace 2023): arrivals and lengths, no content.

    TIMESTAMP,ContextTokens,GeneratedTokens
    2023-11-16 18:15:46.6805900,374,44

What requests share is made up here, from a seed; arrivals and lengths stay as they are. The model:

- With probability CONTINUES a request is the next turn of a chat, if there is one that it can continue: its last turn
  came MIN_GAP_S to MAX_GAP_S ago, and its prompt and answer are no longer than the request's prompt. Of those the
  longest is continued, so that the added message is short. The prompt repeats all that the chat had.
- Any other request starts a chat with one of SYSTEM_PROMPTS system prompts, drawn by Zipf's law with exponent 1; their
  lengths are lognormal (median 1,200 tokens). A prompt shorter than its system prompt is the beginning of it.
- All else is private to the chat.

So the hit rate that a cache reaches on this workload is a property of the model, not of the trace.
"""

import random
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path

from dualmap.loadtest.traces.synth import Lognormal
from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceError
from dualmap.loadtest.traces.workload import Workload, WorkRequest, fill_answer_blocks
from dualmap.scheduler.blocks import hash_trace_ids, root_hash

CONTINUES = 0.6
MIN_GAP_S = 5.0
MAX_GAP_S = 900.0
SYSTEM_PROMPTS = 16
_SYSTEM_TOKENS = Lognormal(1200, 0.6, 128, 6144)
_COLUMNS = "TIMESTAMP,ContextTokens,GeneratedTokens"


@dataclass(slots=True)
class _Chat:
    """turn: index of its last request. tokens: of that request's prompt and answer. blocks: hashes so far."""

    session: int
    turn: int
    tokens: int
    last_s: float
    blocks: tuple[int, ...]


def read_azure(path: str | Path, *, seed: int = 0, turns: bool = False) -> Workload:
    """turns: let follow-ups wait for the turn before, as in `dualmap.loadtest.formats.mooncake`. Raises TraceError."""
    rng = random.Random(seed)
    prompts = [
        hash_trace_ids(
            range(int(_SYSTEM_TOKENS.draw(rng)) // BLOCK_TOKENS), parent=root_hash(b"azure", b"%d %d" % (seed, rank))
        )
        for rank in range(SYSTEM_PROMPTS)
    ]
    popularity = list(accumulate(1 / (rank + 1) for rank in range(SYSTEM_PROMPTS)))
    recent: deque[tuple[float, _Chat]] = deque()  # turns that no chat may be continued from yet
    idle: list[tuple[int, int, _Chat]] = []  # (tokens, turn, chat), sorted
    requests: list[WorkRequest] = []
    continues: list[int | None] = []
    sessions = 0
    for at_s, prompt_tokens, output_tokens in _rows(path):
        while recent and recent[0][0] <= at_s - MIN_GAP_S:
            chat = recent.popleft()[1]
            insort(idle, (chat.tokens, chat.turn, chat))
        before = _chat_to_continue(idle, prompt_tokens, at_s) if rng.random() < CONTINUES else None
        if before is None:
            shared = rng.choices(prompts, cum_weights=popularity)[0]
            chat = _Chat(sessions, 0, 0, 0.0, shared)
            sessions += 1
        else:
            chat = before
        continues.append(None if before is None else before.turn)
        request = WorkRequest(at_s, prompt_tokens, output_tokens, _extended(chat, prompt_tokens), session=chat.session)
        if turns and before is not None:
            request.after, request.think_s = before.turn, at_s - before.last_s
        chat.turn, chat.tokens = len(requests), prompt_tokens + output_tokens
        chat.last_s, chat.blocks = at_s, request.blocks
        recent.append((at_s, chat))
        requests.append(request)
    fill_answer_blocks(requests, continues)
    return Workload(Path(path).stem, requests)


def _chat_to_continue(idle: list[tuple[int, int, _Chat]], prompt_tokens: int, at_s: float) -> _Chat | None:
    place = bisect_right(idle, prompt_tokens, key=lambda entry: entry[0])
    while place:
        place -= 1
        chat = idle.pop(place)[2]
        if chat.last_s >= at_s - MAX_GAP_S:
            return chat
    return None


def _extended(chat: _Chat, prompt_tokens: int) -> tuple[int, ...]:
    """The chat's blocks, cut or grown to the full blocks of a prompt."""
    full = prompt_tokens // BLOCK_TOKENS
    known = chat.blocks[:full]
    parent = known[-1] if known else 0
    return known + hash_trace_ids([chat.session + 1] * (full - len(known)), parent=parent)


def _rows(path: str | Path) -> Iterator[tuple[float, int, int]]:
    """(seconds from the first arrival, prompt tokens, output tokens)."""
    origin: tuple[datetime, float] | None = None
    latest_s = 0.0
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as lines:
            if next(lines, "").strip() != _COLUMNS:
                raise TraceError(f"{path}, line 1: expected the columns {_COLUMNS}")
            for number, line in enumerate(lines, start=2):
                if not line.strip():
                    continue
                try:
                    stamp, context, generated = line.split(",")
                    whole, _, fraction = stamp.strip().partition("+")[0].partition(".")
                    moment, part_s = datetime.fromisoformat(whole), float(f"0.{fraction or 0}")
                    origin = origin or (moment, part_s)
                    at_s = round((moment - origin[0]).total_seconds() + part_s - origin[1], 7)
                    prompt_tokens, output_tokens = int(context), int(generated)
                except ValueError:
                    raise TraceError(f"{path}, line {number}: expected {_COLUMNS}, found {line.strip()!r}") from None
                if at_s < latest_s or prompt_tokens < 1 or output_tokens < 0:
                    raise TraceError(f"{path}, line {number}: lengths must be positive and times in order")
                latest_s = at_s
                yield at_s, prompt_tokens, max(output_tokens, 1)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    if origin is None:
        raise TraceError(f"{path}: no request in it")
