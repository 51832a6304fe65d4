"""Clients of a run under a nemesis: chats and completions, streamed and plain, each kept and judged as a whole answer.

Open loop: a request is sent when its time has come, whatever became of those before. Each has a connection of its own.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools

from dualmap.loadtest.histories.answers import stream_faults, text_fault
from dualmap.loadtest.histories.faults import Fault, Rule
from dualmap.loadtest.histories.keys import KeyRow
from dualmap.loadtest.histories.rows import Row
from dualmap.loadtest.replay.request_body import CHAT_PATH, COMPLETIONS_PATH
from dualmap.loadtest.replay.run_file import Outcome
from dualmap.loadtest.replay.stream_reader import StreamReader

ANSWER_TIMEOUT_S = 100.0
MODEL = "sim"
RATE_LIMITED = "The API key's rate limit"
READ_BYTES = 65536


@dataclass(slots=True)
class Seen:
    """What clients saw. cut_off: indices of streams that ended in mid-answer. left: requests whose clients left."""

    rows: list[Row] = field(default_factory=list)
    keys: list[KeyRow] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    cut_off: list[int] = field(default_factory=list)
    left: int = 0

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(str(row.outcome) for row in self.rows)


class _Whole(StreamReader):
    """Keeps all of the body."""

    def __init__(self) -> None:
        super().__init__()
        self.body = bytearray()

    def on_body(self, body: bytes) -> None:
        self.body += body
        super().on_body(body)


@dataclass(frozen=True, slots=True)
class _Asked:
    index: int
    at_s: float
    path: str
    streams: bool
    key: str
    leaves_after_s: float | None
    body: dict[str, Any]


def draw_requests(seed: int, seconds: float, qps: float, keys: Sequence[str]) -> list[_Asked]:
    rng = random.Random(f"clients {seed}")
    found: list[_Asked] = []
    at_s = rng.expovariate(qps)
    while at_s < seconds:
        path = rng.choice((CHAT_PATH, CHAT_PATH, COMPLETIONS_PATH))
        text = f"{rng.randrange(6)} " * rng.randrange(50, 2500) + f"{seed}-{len(found)}"
        asked = {"prompt": text} if path == COMPLETIONS_PATH else {"messages": [{"role": "user", "content": text}]}
        streams = rng.random() < 0.8
        more = {"stream": True, "stream_options": {"include_usage": True}} if streams else {}
        body = {"model": MODEL, **asked, "max_tokens": rng.randrange(20, 900), "ignore_eos": True, **more}
        leaves = rng.uniform(0.1, 3.0) if rng.random() < 0.05 else None
        found.append(_Asked(len(found), at_s, path, streams, rng.choice(keys), leaves, body))
        at_s += rng.expovariate(qps)
    return found


async def send_all(port: int, requests: Sequence[_Asked]) -> Seen:
    """Returns when each has its end."""
    seen = Seen()
    began_s = time.monotonic()

    async def one(asked: _Asked) -> None:
        await asyncio.sleep(max(0.0, asked.at_s - (time.monotonic() - began_s)))
        await _ask(port, asked, seen, began_s)

    await asyncio.gather(*map(one, requests))
    return seen


async def _ask(port: int, asked: _Asked, seen: Seen, began_s: float) -> None:
    reader = _Whole()
    sent_s = time.monotonic() - began_s
    limit_s = ANSWER_TIMEOUT_S if asked.leaves_after_s is None else asked.leaves_after_s
    try:
        async with asyncio.timeout(limit_s):
            outcome, detail = await _exchange(port, asked, reader)
    except TimeoutError:
        if asked.leaves_after_s is not None:
            seen.left += 1
            return
        outcome, detail = Outcome.UNFINISHED, f"no end within {limit_s:g} s"
    request_id = reader.header(b"x-request-id") or ""
    seen.rows.append(Row(asked.index, request_id, outcome, detail, _tokens(reader, asked)))
    seen.faults += [
        Fault(Rule.EVERY_TOKEN_ONCE, request_id, says, "clients") for says in _faults(reader, asked, outcome)
    ]
    if outcome is Outcome.BROKEN and reader.first_token_at is not None:
        seen.cut_off.append(asked.index)
    if request_id:
        granted = not (reader.status == 429 and detail.startswith(RATE_LIMITED))
        seen.keys.append(KeyRow(asked.key, request_id.rsplit("-", 1)[0], sent_s, granted))


async def _exchange(port: int, asked: _Asked, reader: _Whole) -> tuple[Outcome, str]:
    body = json.dumps(asked.body, separators=(",", ":")).encode()
    head = (
        f"POST {asked.path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {asked.key}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    try:
        incoming, outgoing = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        return Outcome.CONNECT_ERROR, str(error)
    try:
        outgoing.write(head.encode() + body)
        while not reader.complete and (data := await incoming.read(READ_BYTES)):
            reader.feed(data, time.monotonic())
    except (OSError, httptools.HttpParserError) as error:
        return Outcome.BROKEN, repr(error)
    finally:
        outgoing.close()
    if asked.streams or reader.status != 200:
        return reader.outcome()[:2]
    return (Outcome.OK, "") if reader.complete else (Outcome.BROKEN, "cut off")


def _plain(reader: _Whole) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reader.body)
    return found


def _tokens(reader: _Whole, asked: _Asked) -> int | None:
    if reader.status != 200 or not reader.complete:
        return None
    if not asked.streams:
        return int(_plain(reader)["usage"]["completion_tokens"])
    usage = reader.outcome()[2]
    return usage.completion_tokens if usage else None


def _faults(reader: _Whole, asked: _Asked, outcome: Outcome) -> list[str]:
    if reader.status != 200:
        return []
    wanted = asked.body["max_tokens"]
    if asked.streams:
        found = stream_faults(bytes(reader.body), complete=outcome is Outcome.OK)
    elif outcome is Outcome.OK:
        (choice,) = _plain(reader)["choices"]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        found = list(filter(None, [text_fault(text, wanted)]))
    else:
        return []
    tokens = _tokens(reader, asked)
    if outcome is Outcome.OK and tokens != wanted:
        found.append(f"it has {tokens} tokens, and {wanted} were asked for")
    return found
