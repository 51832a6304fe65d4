"""The work of the comparison with routers that others wrote: chats, coding agents, and one hot prompt."""

import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from dualmap.loadtest.formats import read_workload
from dualmap.loadtest.formats.mooncake import to_trace
from dualmap.loadtest.traces.synth import Lognormal, SynthConfig, synthesise
from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceRequest, read_trace, select
from dualmap.loadtest.traces.workload import WorkRequest, in_order
from dualmap.loadtest.traces.workload_scale import limit, resample_sessions

CONVERSATION = "mooncake_conversation.jsonl"
AGENTS = "weka_agentic"
CONVERSATION_TOKENS = 20_480  # the longest prompt, as in arXiv 2602.06502
AGENT_TOKENS = 49_152
AGENT_TURNS = 10  # of a session: its first ones
AGENT_QPS = 1.0  # at which sessions are drawn; a run at another rate moves all times
LONGEST_PAUSE_S = 60.0
HOT_BLOCKS = 12
SYNTHETIC_AGENTS = SynthConfig(
    system_prompts=3,
    system_tokens=Lognormal(9000, 0.2, 4096, 16_384),
    first_message=Lognormal(400, 0.8, 16, 4000),
    next_message=Lognormal(700, 1.0, 16, 8000),
    answer=Lognormal(200, 0.8, 8, 1500),
    think=Lognormal(6, 0.8, 1, 60),
    mean_turns=AGENT_TURNS,
    max_input_tokens=AGENT_TOKENS,
)


@dataclass(frozen=True, slots=True)
class Work:
    """One workload, for eight instances with the profile that `dualmap sim-instance` has by default.

    rates: requests a second, from easy to past everybody's capacity. aiperf_rate: for AIPerf, whose prompts have some
        11 % more tokens than their trace says.
    ttft_slo_s, tpot_slo_s: objectives of the first token, and of each that follows.
    """

    name: str
    rates: tuple[float, float, float]
    aiperf_rate: float
    requests: int
    ttft_slo_s: float = 5.0
    tpot_slo_s: float = 0.1


WORK = (
    Work("conversation", (6.0, 8.0, 10.0), 7.0, 210),
    Work("agents", (3.0, 5.0, 7.0), 4.0, 170, ttft_slo_s=10.0),
    Work("hot prompt", (8.0, 20.0, 32.0), 18.0, 280),
)


def requests_of(work: Work, traces: Path | None) -> list[TraceRequest]:
    """traces: a folder that has the public traces; synthetic requests where it has none. Raises TraceError."""
    match work.name:
        case "conversation":
            path = traces / CONVERSATION if traces else None
            found = read_trace(path) if path and path.exists() else synthesise(SynthConfig(requests=work.requests))
            return select(found, limit=work.requests, max_input_tokens=CONVERSATION_TOKENS)
        case "agents":
            path = traces / AGENTS if traces else None
            if path and path.exists():
                return recorded_agents(path, work.requests)
            return synthesise(replace(SYNTHETIC_AGENTS, requests=work.requests))
    return hot_prompt(work.requests)


def recorded_agents(path: Path, count: int) -> list[TraceRequest]:
    """The first turns of sessions of coding agents, drawn again and again, each with blocks of its own."""
    recorded = limit(read_workload(path), max_prompt_tokens=AGENT_TOKENS)
    turns: Counter[int] = Counter()
    first: list[WorkRequest] = []
    last_s: dict[int, tuple[float, float]] = {}  # of a session: by the trace's clock, and here
    for request in recorded.requests:
        turns[request.session] += 1
        if turns[request.session] <= AGENT_TURNS:
            before_s, moved_s = last_s.get(request.session, (request.arrival_s, request.arrival_s))
            gap_s = min(request.arrival_s - before_s, LONGEST_PAUSE_S)
            last_s[request.session] = request.arrival_s, moved_s + gap_s
            first.append(replace(request, arrival_s=moved_s + gap_s, after=None, think_s=0.0))
    return to_trace(resample_sessions(in_order(recorded.name, first), count, seed=1, qps=AGENT_QPS))[:count]


def hot_prompt(count: int) -> list[TraceRequest]:
    """One system prompt for all, and 20 to 4,000 tokens behind it that nobody else has; short answers."""
    rng = random.Random(0)
    found: list[TraceRequest] = []
    now_s, fresh = 0.0, HOT_BLOCKS
    for _ in range(count):
        tokens = HOT_BLOCKS * BLOCK_TOKENS + rng.randint(20, 4000)
        own = range(fresh, fresh - (-tokens // BLOCK_TOKENS) - HOT_BLOCKS)
        fresh = own.stop
        answer = max(1, int(rng.expovariate(1 / 120)))
        found.append(TraceRequest(round(now_s * 1000), tokens, answer, (*range(HOT_BLOCKS), *own)))
        now_s += rng.expovariate(4.0)
    return found
