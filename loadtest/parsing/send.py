"""All cases over connections of their own to one server: what the client got, and what the server behind noted."""

import asyncio
import json
import re
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dualmap.loadtest.parsing.case import Case

AT_ONCE = 64
QUIET_S = 1.0  # without a byte: nothing more comes
MOST_S = 15.0  # of one connection
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


@dataclass(frozen=True, slots=True)
class Seen:
    """method, target, body of a request as the server behind read it."""

    method: str
    target: str
    body: str


@dataclass(slots=True)
class Outcome:
    """number: of the case. statuses: of the final answers. seen: requests of the server behind, in order."""

    number: int
    statuses: list[int] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Nothing of it was answered with success."""
        return not any(status < 400 for status in self.statuses)


async def send_all(cases: Sequence[Case], port: int, behind: int) -> list[Outcome]:
    """behind: port of the server that notes."""
    turns = asyncio.Semaphore(AT_ONCE)
    await asyncio.to_thread(_noted, behind)

    async def one(number: int, case: Case) -> Outcome:
        async with turns:
            return Outcome(number, await _statuses(case.sent(number), port))

    outcomes = list(await asyncio.gather(*(one(number, case) for number, case in enumerate(cases))))
    for noted in await asyncio.to_thread(_noted, behind):
        if noted["case"] is not None and noted["case"] < len(outcomes):
            outcomes[noted["case"]].seen.append(Seen(noted["method"], noted["target"], noted["body"]))
    return outcomes


async def _statuses(raw: bytes, port: int) -> list[int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        async with asyncio.timeout(MOST_S):
            writer.write(raw)
            sending = asyncio.ensure_future(writer.drain())
            while piece := await asyncio.wait_for(reader.read(65536), QUIET_S):
                answer += piece
            await sending
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
    statuses = [int(status) for status in _STATUS.findall(answer)]
    return [status for status in statuses if status >= 200]


def _noted(port: int) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/noted", timeout=30) as answer:
        noted: list[dict[str, Any]] = json.load(answer)
        return noted
