"""Synthetic chat traces in the Mooncake format, for where no real trace can be used.

Chats arrive as a Poisson process. Each begins with one of a few shared system prompts, Zipf-distributed, so that a few
are hot. A turn's prompt is all that was said before (prompts and answers) and a new message; lengths and pauses are
lognormal. The default values give the range of the public conversation traces (kvcache-ai/Mooncake FAST25-release: 3.4
requests/s, prompts of 0.9k / 6.9k / 27k tokens at P10 / P50 / P90, answers of 350 tokens and 126 s between turns at
P50), with prompts up to 20,480 tokens and more turns to a chat.
"""

import random
from dataclasses import dataclass, field
from itertools import accumulate, count
from math import exp, log
from typing import NamedTuple

from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceRequest

_TOKEN_TIME_S = 0.03  # how long a user waits for a token of the answer before reading on
_WARMUP_SESSIONS = (
    3.0  # mean session spans simulated before the trace starts, so that it starts in the middle of things
)


class Lognormal(NamedTuple):
    """A lognormal distribution cut to [least, most]."""

    median: float
    sigma: float  # of the logarithm; 1.0 puts P90 at 3.6 times the median
    least: float
    most: float

    def draw(self, rng: random.Random) -> float:
        return min(max(self.median * exp(rng.gauss(0.0, self.sigma)), self.least), self.most)

    @property
    def mean(self) -> float:
        """Of the uncut distribution."""
        return exp(log(self.median) + self.sigma**2 / 2)


_SYSTEM_TOKENS = Lognormal(1200, 0.6, 128, 6144)
_FIRST_MESSAGE = Lognormal(2400, 1.2, 16, 16384)
_NEXT_MESSAGE = Lognormal(400, 1.2, 8, 8192)
_ANSWER = Lognormal(300, 0.7, 8, 2000)
_THINK = Lognormal(60, 0.9, 2, 1800)


@dataclass(frozen=True, slots=True)
class SynthConfig:
    """What a synthetic trace looks like. Lengths in tokens, times in seconds.

    requests: how many; the trace ends when they are reached.
    seed: the same configuration gives the same trace.
    qps: mean arrival rate of requests, all turns counted.
    system_prompts: how many different ones there are.
    zipf: exponent of their popularity; 0 makes all equally hot, 1.0 gives the first of 16 about 30% of the chats.
    system_tokens: length of a system prompt.
    mean_turns: of a chat; the number is geometric.
    first_message, next_message: what the user adds in the first turn and in each later one.
    answer: output tokens of a turn; they are part of the next turn's prompt.
    think: pause between the end of an answer and the next turn.
    max_input_tokens: a chat ends before its prompt would become longer than this.
    """

    requests: int = 2000
    seed: int = 1
    qps: float = 3.4
    system_prompts: int = 16
    zipf: float = 1.0
    system_tokens: Lognormal = _SYSTEM_TOKENS
    mean_turns: float = 4.0
    first_message: Lognormal = _FIRST_MESSAGE
    next_message: Lognormal = _NEXT_MESSAGE
    answer: Lognormal = _ANSWER
    think: Lognormal = _THINK
    max_input_tokens: int = 20480

    def __post_init__(self) -> None:
        if self.requests < 1 or self.qps <= 0 or self.system_prompts < 1 or self.mean_turns < 1 or self.zipf < 0:
            raise ValueError(
                "requests, system_prompts and mean_turns must be at least 1, qps above 0 and zipf at least 0:"
                f" found {self.requests}, {self.system_prompts}, {self.mean_turns}, {self.qps}, {self.zipf}"
            )
        if self.max_input_tokens < 2 * BLOCK_TOKENS:
            raise ValueError(f"max_input_tokens must be at least {2 * BLOCK_TOKENS}: found {self.max_input_tokens}")


@dataclass(slots=True)
class _Chat:
    """A chat as it grows. full_ids: ids of its full blocks, the shared ones of its system prompt first."""

    tokens: int
    full_ids: list[int] = field(default_factory=list)


def synthesise(config: SynthConfig) -> list[TraceRequest]:
    """A trace in order of arrival, with block ids numbered in order of appearance."""
    rng = random.Random(config.seed)
    fresh_ids = count()
    prompts = [
        _Chat(length, [next(fresh_ids) for _ in range(length // BLOCK_TOKENS)])
        for length in (
            min(int(config.system_tokens.draw(rng)), config.max_input_tokens // 2) for _ in range(config.system_prompts)
        )
    ]
    popularity = list(accumulate((rank + 1) ** -config.zipf for rank in range(config.system_prompts)))
    session_span_s = config.mean_turns * (config.think.mean + config.answer.mean * _TOKEN_TIME_S)
    start_s = -_WARMUP_SESSIONS * session_span_s

    found: list[TraceRequest] = []
    while True:
        start_s += rng.expovariate(config.qps / config.mean_turns)
        if len(found) >= config.requests:
            found.sort(key=lambda r: r.timestamp_ms)
            # every chat that starts later can only add requests after the last one kept
            if found[config.requests - 1].timestamp_ms < start_s * 1000:
                return _renumbered(found[: config.requests])
        system_prompt = rng.choices(prompts, cum_weights=popularity)[0]
        found.extend(_chat_turns(config, rng, fresh_ids, start_s, system_prompt))


def _chat_turns(
    config: SynthConfig, rng: random.Random, fresh_ids: "count[int]", start_s: float, system_prompt: _Chat
) -> list[TraceRequest]:
    """The turns of one chat that fall into the trace, which starts at second 0."""
    chat = _Chat(system_prompt.tokens, list(system_prompt.full_ids))
    turns: list[TraceRequest] = []
    at_s = start_s
    message = config.first_message
    while True:
        chat.tokens += int(message.draw(rng))
        if chat.tokens > config.max_input_tokens:
            if message is not config.first_message:
                return turns
            chat.tokens = config.max_input_tokens
        full, rest = divmod(chat.tokens, BLOCK_TOKENS)
        chat.full_ids += [next(fresh_ids) for _ in range(full - len(chat.full_ids))]
        answer_tokens = int(config.answer.draw(rng))
        if at_s >= 0:
            # the partial block is completed by the answer, so its id is never seen again
            partial = (next(fresh_ids),) if rest else ()
            turns.append(TraceRequest(round(at_s * 1000), chat.tokens, answer_tokens, (*chat.full_ids, *partial)))
        if rng.random() >= 1 - 1 / config.mean_turns:
            return turns
        chat.tokens += answer_tokens
        at_s += answer_tokens * _TOKEN_TIME_S + config.think.draw(rng)
        message = config.next_message


def _renumbered(requests: list[TraceRequest]) -> list[TraceRequest]:
    """Ids in order of appearance and time from the first arrival on, as in the public traces."""
    numbers: dict[int, int] = {}
    origin_ms = requests[0].timestamp_ms
    return [
        TraceRequest(
            r.timestamp_ms - origin_ms,
            r.input_length,
            r.output_length,
            tuple(numbers.setdefault(block_id, len(numbers)) for block_id in r.hash_ids),
        )
        for r in requests
    ]
