"""Timings of a server that nobody else uses: first tokens by prompt length, tokens by how many decode, and how prompts
are cut into steps. Rounds go over everything in turn, so that what else the machine does for a while spoils one timing
of many things rather than all of one."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median

from dualmap.instances.calibrate.fit import Observation, prompt_chunks
from dualmap.instances.calibrate.server import CalibrateTarget
from dualmap.instances.calibrate.stream import CalibrateError, Streamed, stream

TOKEN_IDS = range(1000, 8000)  # in any vocabulary, and free of special tokens in most
SHORTEST_TOKENS = 32
SHORT_CONTEXT_TOKENS = 64
WARM_UP_TOKENS = 4
LONG_CONTEXT_TOKENS = 4096
PACED_PROMPT_TOKENS = 32_768  # of all streams together: their prompts take no longer than the tokens that are timed
PACED_TOKENS = 48
LEAST_GAPS = 8
TRIES = 3
POOL_SHARE = 0.9  # filled by streams at most, so that none waits for room
CUT_PROMPT_TOKENS = 16_384
CUT_BESIDE_TOKENS = 96  # of the stream that decodes meanwhile: more than there are pieces
CLEARLY_LONGER = 4.0  # a step with a piece of a prompt in it, than one without
BUDGETS = tuple(2**power for power in range(8, 18))  # what people give as max_num_batched_tokens


@dataclass(frozen=True, slots=True)
class CalibratePlan:
    """What to measure, each so many times: prompts of these lengths, so many streams at once."""

    prompt_tokens: tuple[int, ...]
    streams: tuple[int, ...]
    contexts: tuple[int, ...]
    repeats: int


@dataclass(slots=True)
class Timings:
    """Seconds, one a round. prompts: to the first token, by length and whether it was sent before. paces: (seconds a
    token, context of each stream in tokens), by streams and the length of their prompts. cuts: pieces that a prompt of
    `cut_tokens` was computed in. running: of streams that did not all run at once, how many did."""

    prompts: dict[tuple[int, bool], list[float]] = field(default_factory=lambda: defaultdict(list))
    paces: dict[tuple[int, int], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    cuts: list[int] = field(default_factory=list)
    cut_tokens: int = 0
    rounds: int = 0
    produced_tokens: int = 0
    running: list[int] = field(default_factory=list)

    def observations(self, block_size: int, budget: int) -> list[Observation]:
        """budget: tokens of a step. The last block of a prompt is computed even where all of it is cached."""
        found = []
        for (tokens, sent_before), times in self.prompts.items():
            cached = (tokens - 1) // block_size * block_size if sent_before else 0
            what = f"first token, {tokens} tokens, {'cached' if sent_before else 'cold'}"
            found.append(Observation(what, median(times), 1, prompt_chunks(tokens, cached, budget)))
        for (streams, prompt_tokens), paces in sorted(self.paces.items()):
            context = streams * median(context for _, context in paces)
            what = f"a token, streams {streams}, prompts of {prompt_tokens} tokens"
            found.append(Observation(what, median(pace for pace, _ in paces), 0, ((0, 0.0),), streams, context))
        return found

    @property
    def most_running(self) -> int | None:
        """None where all streams ran at once in any round. A round in which this client was held up shows too few."""
        return max(self.running) if self.running and len(self.running) == self.rounds else None

    def budget(self) -> int | None:
        """The usual max_num_batched_tokens at which a prompt is cut into as many pieces, beside one that decodes."""
        if not self.cuts:
            return None
        pieces = round(median(self.cuts))
        fitting = [budget for budget in BUDGETS if -(-self.cut_tokens // (budget - 1)) == pieces]
        return fitting[0] if pieces > 1 and len(fitting) == 1 else None


def make_plan(target: CalibrateTarget, max_prompt: int | None, max_num_seqs: int, *, quick: bool) -> CalibratePlan:
    """Raises CalibrateError if nothing fits."""
    longest = min(target.longest_tokens - 1, max_prompt or (2048 if quick else target.longest_tokens))
    if longest < 2 * SHORTEST_TOKENS:
        raise CalibrateError(f"prompts of up to {longest} tokens are too short to tell anything")
    lengths = [SHORTEST_TOKENS << i for i in range(longest.bit_length()) if SHORTEST_TOKENS << i <= longest]
    if longest >= 1.5 * lengths[-1]:
        lengths.append(longest)
    if quick:
        lengths = lengths[::2]
    streams = [count for count in (1, 4) if count <= max_num_seqs] if quick else _doubling(max_num_seqs)
    context = min(LONG_CONTEXT_TOKENS, longest // 2)
    contexts = (SHORT_CONTEXT_TOKENS, context) if context >= 4 * SHORT_CONTEXT_TOKENS else (SHORT_CONTEXT_TOKENS,)
    return CalibratePlan(tuple(lengths), tuple(streams), contexts, 2 if quick else 3)


async def measure(target: CalibrateTarget, plan: CalibratePlan, say: Callable[[str], None]) -> Timings:
    """Raises CalibrateError."""
    meter = _Meter(target, say)
    for number in range(plan.repeats):
        say(f"round {number + 1} of {plan.repeats}")
        meter.timings.rounds += 1
        for tokens in plan.prompt_tokens:
            await meter.prompt(tokens)
        for context in plan.contexts:
            for streams in plan.streams:
                if not await meter.pace(streams, context):
                    break
        await meter.cut(plan.prompt_tokens[-1])
    return meter.timings


async def warm_up(target: CalibrateTarget) -> None:
    """The first requests of a server pay for what is set up when it is first used. Raises CalibrateError."""
    for tokens in (SHORTEST_TOKENS, 8 * SHORTEST_TOKENS, SHORTEST_TOKENS):
        prompt = random.choices(TOKEN_IDS, k=min(tokens, target.longest_tokens - WARM_UP_TOKENS))
        await stream(target.host, target.port, target.model, prompt, WARM_UP_TOKENS)


class _Meter:
    """Sends what is to be timed and keeps the times."""

    def __init__(self, target: CalibrateTarget, say: Callable[[str], None]) -> None:
        self.timings = Timings()
        self._target = target
        self._say = say
        self._random = random.Random()  # unseeded: what a run before this one sent must not be cached

    async def prompt(self, tokens: int) -> None:
        prompt = self._fresh(tokens)
        cold, cached = [(await self._stream(prompt, 1)).ttft_s for _ in range(2)]
        self.timings.prompts[tokens, False].append(cold)
        self.timings.prompts[tokens, True].append(cached)
        self._say(f"  prompt of {tokens} tokens: first token after {cold:.4f} s, cached {cached:.4f} s")

    async def pace(self, streams: int, prompt_tokens: int) -> bool:
        """So many streams at once, timed while all of them run; whether they did, and more can be tried."""
        output_tokens = PACED_TOKENS + streams + streams * prompt_tokens // 512  # those that begin first wait for all
        needed = streams * (prompt_tokens + output_tokens)
        if (
            streams * prompt_tokens > PACED_PROMPT_TOKENS
            or needed > POOL_SHARE * self._target.kv_tokens
            or prompt_tokens + output_tokens > self._target.longest_tokens
        ):
            return False
        done = await self._together(streams, prompt_tokens, output_tokens)
        if done is None:
            self._say(f"  streams {streams}, prompts of {prompt_tokens} tokens: the tokens came in heaps, not counted")
            return True
        ends_s = min(one.token_s[-1] for one in done)
        running = sum(one.token_s[0] < ends_s for one in done)
        if running < streams:
            if prompt_tokens == SHORT_CONTEXT_TOKENS:
                self.timings.running.append(running)
            self._say(f"  of {streams} streams {running} ran at once")
            return False
        starts_s = max(one.token_s[0] for one in done)
        within = [[at for at in one.token_s if starts_s <= at <= ends_s] for one in done]
        gaps_s = [gap_s for times in within if (gap_s := _gap_s(times))]
        if gaps_s:
            context = prompt_tokens + fmean(_middle(one, starts_s, ends_s) for one in done)
            self.timings.paces[streams, prompt_tokens].append((fmean(gaps_s), context))
            self._say(
                f"  streams {streams}, prompts of {prompt_tokens} tokens: a token each {1000 * fmean(gaps_s):.2f} ms"
            )
        return True

    async def _together(self, streams: int, prompt_tokens: int, output_tokens: int) -> list[Streamed] | None:
        """None if all tokens of each came at once, however often it is tried: this machine is short of CPU."""
        for _ in range(TRIES):
            begun = [self._stream(self._fresh(prompt_tokens), output_tokens) for _ in range(streams)]
            done = await asyncio.gather(*begun)
            if min(one.token_s[0] for one in done) < min(one.token_s[-1] for one in done):
                return done
        return None

    async def cut(self, longest_tokens: int) -> None:
        """A prompt beside one that decodes: each of its steps is a gap between two tokens of the other. It is a bit
        shorter than a power of two, so that its last piece is a large one whatever power of two the budget is."""
        most = min(longest_tokens, CUT_PROMPT_TOKENS)
        tokens = (1 << most.bit_length() - 1) // 16 * 15
        paces = self.timings.paces.get((1, SHORT_CONTEXT_TOKENS))
        if paces is None:
            return
        pace_s = median(pace for pace, _ in paces)
        ttft_s = median(self.timings.prompts[SHORTEST_TOKENS, False])
        others_tokens = min(CUT_BESIDE_TOKENS, self._target.longest_tokens - SHORTEST_TOKENS)
        other = asyncio.create_task(self._stream(self._fresh(SHORTEST_TOKENS), others_tokens))
        await asyncio.sleep(2 * ttft_s + PACED_TOKENS / 6 * pace_s)
        long = await self._stream(self._fresh(tokens), 1)
        times = (await other).token_s
        gaps_s = [later - at for at, later in pairwise(times) if long.sent_s < later and at < long.token_s[0]]
        largest_s = max(gaps_s, default=0.0)
        self.timings.cut_tokens = tokens
        if largest_s > CLEARLY_LONGER * pace_s:
            pieces = sum(gap_s > (largest_s * pace_s) ** 0.5 for gap_s in gaps_s)
            self.timings.cuts.append(pieces)
            self._say(f"  prompt of {tokens} tokens beside a stream: {pieces} steps")

    def _fresh(self, tokens: int) -> list[int]:
        """A prompt that nobody has sent before."""
        return self._random.choices(TOKEN_IDS, k=tokens)

    async def _stream(self, prompt: Sequence[int], output_tokens: int) -> Streamed:
        self.timings.produced_tokens += output_tokens
        target = self._target
        return await stream(target.host, target.port, target.model, prompt, output_tokens)


def _doubling(most: int) -> list[int]:
    return [1 << i for i in range(most.bit_length())]


def _gap_s(times: Sequence[float]) -> float:
    """Mean time between tokens, 0 if they are too few. Those that came along with the first say nothing."""
    later = sum(at > times[0] for at in times) if times else 0
    return (times[-1] - times[0]) / later if later >= LEAST_GAPS else 0.0


def _middle(one: Streamed, starts_s: float, ends_s: float) -> float:
    """Tokens it had made halfway between."""
    return sum(at <= starts_s for at in one.token_s) / 2 + sum(at <= ends_s for at in one.token_s) / 2
