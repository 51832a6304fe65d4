"""Streams that are cut off in mid-answer, held against undisturbed ones:
`python -m dualmap.loadtest.experiments.cut_streams URL URL`.

A gateway without Ray, in this process, has two servers of the same model, each behind a relay that cuts its stream off
after a drawn number of chunks: by a reset, a close, in the middle of a chunk, or by silence; some of the cuts fall into
a character. The client's text, id, role, finish_reason and usage are compared with those of the undisturbed answer.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

from dualmap.loadtest.experiments.cutting_relay import Cut, Cuts, CuttingRelay, Way
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.reports.aligned_rows import aligned
from dualmap.router.gateway.gateway import Gateway
from dualmap.router.gateway.pool import Pool
from dualmap.router.http.limits import HttpLimits
from dualmap.router.observe.metrics import GatewayMetrics
from dualmap.scheduler import InstanceCapacity, Scheduler, SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, Membership, MemberState

APIS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
TOOLS = "chat with tools"  # drawn: it goes on where a server has `--enable-scale-out`
PATHS = {**APIS, TOOLS: APIS["chat"]}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
SURE = {"500": 100}  # the bias of a token that is drawn each time
QUESTIONS = 6
RARE = "\ua66e\U00013000\U000124ab\u00e9\u6f22\u5b57\U0001f98a"  # each of them of several tokens
MADE_AGAIN = 3  # each so many questions' answers are such that no other server can go on with them
RARE_BIAS, REPETITION_PENALTY = 2, 1.8
STALL_S, FIRST_BYTE_S = 1.0, 5.0
TIMEOUT_S = 60.0
WITHIN_CHARACTER_SHARE = 0.25  # of the cuts
TWICE_SHARE = 0.1  # of the answers: what goes on is cut, too


@dataclass(frozen=True, slots=True)
class Told:
    """What a client makes of a stream. error: with which it ended, or how its connection did."""

    text: str
    ids: frozenset[str] = frozenset()
    roles: int = 0
    finish_reasons: tuple[str, ...] = ()
    usage: dict[str, int] = field(default_factory=dict)
    error: str = ""

    def difference(self, undisturbed: "Told") -> str:
        """Empty where there is none that a client can see."""
        if self.error:
            return self.error
        if self.text != undisturbed.text:
            same = next((i for i, (a, b) in enumerate(zip(self.text, undisturbed.text, strict=False)) if a != b), None)
            return f"another text, from character {same} on" if same is not None else "a text of another length"
        if len(self.ids) != 1:
            return f"{len(self.ids)} ids"
        if (self.roles, self.finish_reasons) != (undisturbed.roles, undisturbed.finish_reasons):
            return "another role or finish_reason"
        return "" if self.usage == undisturbed.usage else "another usage"


@dataclass(frozen=True, slots=True)
class Outcome:
    """question: its number. cuts: those that were made. difference: from the undisturbed answer; empty: none."""

    api: str
    question: int
    cuts: tuple[Cut, ...]
    difference: str


def read_told(body: bytes) -> Told:
    """Raises ValueError."""
    text, roles, error = "", 0, ""
    ids: set[str] = set()
    reasons: list[str] = []
    usage: dict[str, int] = {}
    *events, last = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    if last != b"[DONE]":
        return Told("", error="its end is missing")
    for event in map(json.loads, events):
        if "error" in event:
            error = str(event["error"]["message"])
            continue
        ids.add(event["id"])
        for choice in event["choices"]:
            delta = choice.get("delta", {})
            roles += "role" in delta
            text += delta.get("content") or choice.get("text") or ""
            reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
        said = event.get("usage") or {}
        usage = {name: said[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens") if said} or usage
    return Told(text, frozenset(ids), roles, tuple(reasons), usage, error)


@dataclass(frozen=True, slots=True)
class Questions:
    """rare: tokens that make up a character together with others. A model of random weights repeats itself; the
    penalty makes it say something new with each token, and the bias lets it begin characters that it may not end."""

    model: str
    max_tokens: int
    rare: tuple[int, ...]

    def body(self, api: str, number: int) -> dict[str, Any]:
        """A streamed request."""
        asked = f"Question {number}: what is a gateway, and why is there none?"
        body: dict[str, Any] = (
            {"messages": [{"role": "user", "content": asked}]} if api == "chat" else {"prompt": asked}
        )
        if api == TOOLS:
            return self._drawn(asked)
        body |= {"model": self.model, "max_tokens": self.max_tokens, "temperature": 0, "ignore_eos": True}
        body |= {"repetition_penalty": REPETITION_PENALTY, "stream": True, "stream_options": {"include_usage": True}}
        if number % 2:
            body["logit_bias"] = {str(token): RARE_BIAS for token in self.rare}
        if number % MADE_AGAIN == MADE_AGAIN - 1:
            body["presence_penalty"] = 0.5  # which counts the tokens of the answer: it is made again as a whole
        return body

    def _drawn(self, asked: str) -> dict[str, Any]:
        body = {"model": self.model, "messages": [{"role": "user", "content": asked}], "max_tokens": self.max_tokens}
        more = {"temperature": 1, "ignore_eos": True, "tools": [TOOL], "logit_bias": SURE, "stream": True}
        return body | more | {"stream_options": {"include_usage": True}}


def ask(url: str, body: dict[str, Any]) -> Told:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return read_told(answer.read())
    except urllib.error.HTTPError as refusal:
        return Told("", error=f"HTTP {refusal.code}: {refusal.read().decode(errors='replace')}")
    except OSError as broken:
        return Told("", error=str(broken) or type(broken).__name__)


def drawn_cuts(rng: random.Random, max_tokens: int) -> tuple[Cut, ...]:
    """Of one answer."""
    count = 2 if rng.random() < TWICE_SHARE else 1
    return tuple(
        Cut(
            rng.randrange(1, max(2, max_tokens // count - 1)),
            rng.choice(tuple(Way)),
            within_character=rng.random() < WITHIN_CHARACTER_SHARE,
        )
        for _ in range(count)
    )


class CutFleet:
    """url: of the gateway."""

    def __init__(self, url: str, questions: Questions, cuts: Cuts, gateway: Gateway) -> None:
        self.url = url
        self.questions = questions
        self.gateway = gateway
        self._cuts = cuts
        self._undisturbed: dict[tuple[str, int], Told] = {}

    async def undisturbed(self, api: str, number: int) -> Told:
        """The answer to a question, of whatever server."""
        if (api, number) not in self._undisturbed:
            self._cuts.order(())
            body = self.questions.body(api, number)
            self._undisturbed[api, number] = await asyncio.to_thread(ask, self.url + PATHS[api], body)
        return self._undisturbed[api, number]

    async def ask_cut(self, api: str, number: int, cuts: Sequence[Cut]) -> Outcome:
        """Ask a question whose answer is cut."""
        expected = await self.undisturbed(api, number)
        self._cuts.order(cuts)
        told = await asyncio.to_thread(ask, self.url + PATHS[api], self.questions.body(api, number))
        return Outcome(api, number, tuple(cuts[: self._cuts.made]), told.difference(expected))


def model_cards(url: str) -> list[dict[str, Any]]:
    """Of a server. Raises OSError."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=TIMEOUT_S) as answer:
        cards: list[dict[str, Any]] = json.load(answer)["data"]
    return cards


def rare_tokens(url: str, model: str) -> tuple[int, ...]:
    """Of a server. Raises OSError."""
    body = json.dumps({"model": model, "prompt": RARE, "add_special_tokens": False}).encode()
    request = urllib.request.Request(f"{url}/tokenize", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return tuple(sorted(set(json.load(answer)["tokens"])))


@asynccontextmanager
async def cut_fleet(urls: Sequence[str], max_tokens: int) -> AsyncIterator[CutFleet]:
    """Raises OSError where a server does not answer."""
    cuts = Cuts()
    relays = [CuttingRelay(place.hostname or "", place.port or 80, cuts) for place in map(urlsplit, urls)]
    config = SchedulerConfig()
    limits = HttpLimits(first_byte_timeout_s=FIRST_BYTE_S, stall_timeout_s=STALL_S, sweep_interval_s=0.1)
    gateway = Gateway(
        [Pool("", Scheduler(config))], limits, GatewayMetrics(), block_tokens=config.block_tokens, max_continuations=2
    )
    try:
        members = []
        for number, (url, relay) in enumerate(zip(urls, relays, strict=True)):
            cards = tuple(await asyncio.to_thread(model_cards, url))
            await relay.start()
            endpoint = Endpoint("127.0.0.1", relay.port)
            capacity = InstanceCapacity()
            members.append(
                Member(f"server-{number}", 1, endpoint, state=MemberState.READY, capacity=capacity, model_cards=cards)
            )
        gateway.apply_membership(Membership(1, tuple(members)))
        await gateway.start("127.0.0.1", 0, admin_port=0)
        model = str(members[0].model_cards[0]["id"])
        rare = await asyncio.to_thread(rare_tokens, urls[0], model)
        yield CutFleet(f"http://127.0.0.1:{gateway.port}", Questions(model, max_tokens, rare), cuts, gateway)
    finally:
        await gateway.stop()
        for relay in relays:
            await relay.stop()


async def disagreements(urls: Sequence[str], fleet: CutFleet) -> list[str]:
    """Which undisturbed answers the servers do not agree on."""
    found = []
    for api, path in APIS.items():
        for number in range(QUESTIONS):
            body = fleet.questions.body(api, number)
            answers = [await asyncio.to_thread(ask, url + path, body) for url in urls]
            if any(answer.difference(answers[0]) for answer in answers):
                found.append(f"{api}, question {number}")
    return found


async def cut_many(fleet: CutFleet, count: int, seed: int) -> list[Outcome]:
    """So many of each API. Cuts that were not made, as the answer was over, count as none."""
    rng = random.Random(seed)
    outcomes = []
    for api in APIS:
        for number in range(count):
            cuts = drawn_cuts(rng, fleet.questions.max_tokens)
            outcomes.append(await fleet.ask_cut(api, number % QUESTIONS, cuts))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> list[str]:
    rows: list[Sequence[str]] = [("", "answers", "cut", "within a character", "twice", "made again", "as undisturbed")]
    for api in APIS:
        own = [outcome for outcome in outcomes if outcome.api == api]
        cut = [outcome for outcome in own if outcome.cuts]
        within = sum(any(each.within_character for each in outcome.cuts) for outcome in cut)
        twice = sum(len(outcome.cuts) > 1 for outcome in cut)
        same = sum(not outcome.difference for outcome in own)
        again = sum(outcome.question % MADE_AGAIN == MADE_AGAIN - 1 for outcome in cut)
        rows.append((api, *map(str, (len(own), len(cut), within, twice, again, same))))
    return [*aligned(rows), *(shown(outcome) for outcome in outcomes if outcome.difference)]


def shown(outcome: Outcome) -> str:
    cuts = " and ".join(
        f"{cut.way} behind {cut.after}{' and within a character' * cut.within_character}" for cut in outcome.cuts
    )
    return f"{outcome.api}, question {outcome.question}, {cuts or 'not cut'}: {outcome.difference}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("servers", nargs=2, metavar="URL", help="two servers of the same model, such as vLLM's")
    parser.add_argument("--cuts", type=int, default=50, metavar="N", help="answers of each API (50)")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="of an answer (64)")
    parser.add_argument("--seed", type=int, default=1)


def run(args: argparse.Namespace) -> int:
    """1 where it could not run, or an answer differs."""
    return uvloop.run(_run([url.rstrip("/") for url in args.servers], args))


async def _run(urls: Sequence[str], args: argparse.Namespace) -> int:
    started_at = time.monotonic()
    try:
        async with cut_fleet(urls, args.max_tokens) as fleet:
            if found := await disagreements(urls, fleet):
                print(f"error: undisturbed answers differ between the servers: {'; '.join(found)}", file=sys.stderr)
                return 1
            outcomes = await cut_many(fleet, args.cuts, args.seed)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(outcomes)))
    print(f"{time.monotonic() - started_at:.0f} s")
    return int(any(outcome.difference for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
