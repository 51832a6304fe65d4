"""Requests of several kinds for a pool of unlike servers, each checked for what answers it: for test_mixed_pool.py."""

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.conftest import WAIT_S, await_that

CLIENTS = 6
HELD_UP_S = 1.0
WORD = "word "  # five bytes: a simulated token has four


@dataclass(frozen=True, slots=True)
class Kind:
    """model: as asked for. answers_as: as the answer calls it. words: of the prompt. servers: names of those that can
    answer."""

    model: str
    answers_as: str
    words: int
    servers: frozenset[str]


class Traffic:
    """Clients that send as many requests as they are told to, and none beyond.

    ids: of the instances, by server. sent: requests there are. failures: what was not as it should be. answered:
    requests by server."""

    def __init__(self, port: int, kinds: Sequence[Kind], ids: Mapping[str, Collection[str]]) -> None:
        self.failures: list[str] = []
        self.answered: Counter[str] = Counter()
        self._port = port
        self._kinds = kinds
        self._server_of = {instance_id: name for name, found in ids.items() for instance_id in found}
        self._lock = threading.Condition()
        self._numbers = itertools.count()
        self.sent = 0
        self._left = 0
        self._begun: dict[int, tuple[float, Kind, bool]] = {}
        self._plain: frozenset[str] = frozenset()
        self._ended = False
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def send(self, count: int) -> None:
        """Returns at once."""
        with self._lock:
            self.sent += count
            self._left += count
            self._lock.notify_all()

    @property
    def all_answered(self) -> bool:
        with self._lock:
            return not self._left and not self._begun

    def await_answers(self) -> None:
        await_that(lambda: self.all_answered, "all requests are answered")

    @property
    def is_held_up(self) -> bool:
        """A request has had no answer for long."""
        with self._lock:
            return any(time.monotonic() - begun_at > HELD_UP_S for begun_at, _, _ in self._begun.values())

    @contextmanager
    def plain_only(self, server: str) -> Iterator[None]:
        """Nothing that the server could answer is streamed: a stream that has begun cannot go on elsewhere."""
        self._plain = frozenset({server})
        await_that(lambda: not self._streams_for(server), "its streams have ended")
        try:
            yield
        finally:
            self._plain = frozenset()

    def close(self) -> None:
        with self._lock:
            self._ended = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _streams_for(self, server: str) -> bool:
        with self._lock:
            return any(streams and server in kind.servers for _, kind, streams in self._begun.values())

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=WAIT_S)
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._left or self._ended)
                if self._ended:
                    connection.close()
                    return
                self._left -= 1
                number = next(self._numbers)
                kind = self._kinds[number % len(self._kinds)]
                streams = number // len(self._kinds) % 2 == 1 and not kind.servers & self._plain
                self._begun[number] = time.monotonic(), kind, streams
            try:
                fault = self._ask(connection, number, kind, streams)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                fault = repr(error)
            with self._lock:
                if fault:
                    self.failures.append(f"{number} {kind.model} {kind.words} {streams=}: {fault}")
                del self._begun[number]

    def _ask(self, connection: http.client.HTTPConnection, number: int, kind: Kind, streams: bool) -> str:
        """What was not as it should be; empty: nothing."""
        content = f"Question {number % 50} {WORD * kind.words}"
        body = {
            "model": kind.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 3,
            "ignore_eos": True,
            "stream": streams,
        }
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            return f"{answer.status} {text[:300]}"
        instance_id = answer.getheader("x-dualmap-instance", "")
        server = self._server_of.get(instance_id)
        if server not in kind.servers:
            return f"answered by {instance_id}, which is {server}"
        self.answered[server] += 1
        told = f"the answer of {server} is {text[:300]}"
        try:
            model, complete = _read_stream(text) if streams else _read_plain(text)
        except (ValueError, LookupError):
            return told
        return "" if model == kind.answers_as and complete else told


def _read_plain(text: str) -> tuple[str, bool]:
    """The model, and whether the answer is whole."""
    answer = json.loads(text)
    return answer["model"], answer["choices"][0]["finish_reason"] == "length"


def _read_stream(text: str) -> tuple[str, bool]:
    """The model, and whether the answer is whole."""
    *events, last = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events]
    reasons = [choice.get("finish_reason") for chunk in chunks for choice in chunk["choices"]]
    return chunks[0]["model"], last == "[DONE]" and "length" in reasons
