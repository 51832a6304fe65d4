"""What a simulated run is asked to do: a trace, cut, multiplied, brought to a rate, and varied by a seed."""

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from math import sqrt
from pathlib import Path
from typing import Literal, NamedTuple

from dualmap.instances.simulated.engine_profile import OFFLOAD_S_PER_TOKEN, EngineProfile
from dualmap.loadtest.formats import read_workload
from dualmap.loadtest.traces.hot_prefix import is_synthetic, synthetic
from dualmap.loadtest.traces.steady_sessions import steady_sessions
from dualmap.loadtest.traces.workload import Workload, in_order
from dualmap.loadtest.traces.workload_scale import at_rate, copies, limit
from dualmap.loadtest.virtual.disturbances import Disturbance, burst_time_s, load_disturbance
from dualmap.loadtest.virtual.models import Model, load_model
from dualmap.loadtest.virtual.objectives import TPOT_S, TTFT

JITTER_S = 2.0  # each way, of arrivals with a seed other than 0
BASE_INSTANCES = 8  # that `limit` and `warmup` are meant for


@dataclass(frozen=True, slots=True)
class Setup:
    """All that one cell of a study has in common.

    trace: a file or directory, or a name of traces/hot_prefix.py; name: what the cell calls it, by default that without
        its suffix.
    model, disturbance: names or files, see models.py and disturbances.py.
    step_tokens: that an instance computes in a step, and no more requests at once; 0: as the model has it.
    limit: requests of the trace, for up to 8 instances; larger clusters get copies of it, or more of what is made.
        warmup: of these, so many are not counted. max_prompt_tokens: longer ones are left out; 0: none is, but for the
        model's own limit.
    objective: what a run is judged by, one of OBJECTIVES; tpot_s: seconds a token, for those that
        have such a limit of the user's.
    cells: the instances are divided into so many, with a gateway each and one in front of all; 1: they are not.
    scale: the least and the most instances of a cluster that scales itself; a new one takes start_s.
    prefill, decode: of the instances, so many compute prompts for others, and answer with what others have computed;
        0: each does both. most_prefill, most_decode: each role scales itself, from those numbers on. change_roles: the
        number of both together stays, and instances change their roles.
    cpu_cache_tokens: KV in a tier behind each instance's pool, read back at cpu_load_tokens_per_s; 0: as the model has
        it. cpu_cache_shared: one tier for all, as large as all of theirs.
    kv_events: what gateways hear of caches; with none they take an instance to have what its pool holds.
    window: of the trace only what comes from one second of its clock up to another. overlaid: larger clusters get
        copies; False: the trace as it is, whatever the size.
    """

    trace: str
    name: str = ""
    format: str = "auto"
    instances: int = 8
    model: str = "full"
    step_tokens: int = 0
    disturbance: str = "none"
    gateways: int = 1
    cells: int = 1
    network_s: float = 0.0005
    slo_s: float = 5.0
    objective: str = TTFT
    tpot_s: float = TPOT_S
    limit: int = 8000
    max_prompt_tokens: int = 20_480
    warmup: int = 500
    scale: tuple[int, int] | None = None
    start_s: float = 30.0
    prefill: int = 0
    decode: int = 0
    most_prefill: int = 0
    most_decode: int = 0
    change_roles: bool = False
    cpu_cache_tokens: int = 0
    cpu_load_tokens_per_s: float = 1 / OFFLOAD_S_PER_TOKEN
    cpu_cache_shared: bool = False
    kv_events: Literal["none", "blocks", "tiers"] = "none"
    window: tuple[float, float] | None = None
    overlaid: bool = True

    @property
    def profile(self) -> EngineProfile:
        """Of the model, with the steps and the tier. Raises ValueError."""
        profile = load_model(self.model).profile
        if self.step_tokens:
            most = min(profile.max_num_seqs, self.step_tokens)
            profile = replace(profile, max_num_batched_tokens=self.step_tokens, max_num_seqs=most)
        if not self.cpu_cache_tokens:
            return profile
        return replace(
            profile, offload_tokens=self.cpu_cache_tokens, offload_s_per_token=1 / self.cpu_load_tokens_per_s
        )

    @property
    def title(self) -> str:
        return self.name or Path(self.trace).stem

    @property
    def copies(self) -> int:
        """Fewer than in proportion: 64 instances get 4 and 256 get 8, so that a run takes minutes, not hours."""
        times = self.instances / BASE_INSTANCES if self.overlaid else 1
        return max(round(min(times, sqrt(2 * times))), 1)

    @property
    def warmup_requests(self) -> int:
        return 0 if load_disturbance(self.disturbance).count_warmup else self.warmup * self.copies

    @property
    def in_words(self) -> str:
        longest = f", prompts up to {self.max_prompt_tokens} tokens" if self.max_prompt_tokens else ""
        scaled = "" if self.scale is None else ", {} to {} instances".format(*self.scale) + f" in {self.start_s:g} s"
        pace = "" if self.tpot_s == TPOT_S else f", {self.tpot_s:g} s a token"
        cells = f", {self.cells} cells" if self.cells > 1 else ""
        tier = ""
        if self.cpu_cache_tokens:
            shared = " shared" if self.cpu_cache_shared else ""
            tier = f", {self.cpu_cache_tokens} tokens in{shared} CPU tiers at {self.cpu_load_tokens_per_s:.0f}/s"
        if self.kv_events != "none":
            tier += f", KV events: {self.kv_events}"
        numbers = (self.prefill, self.most_prefill), (self.decode, self.most_decode)
        prefill, decode = (f"{least} to {most}" if most else f"{least}" for least, most in numbers)
        roles = (
            f", {prefill} prefill and {decode} decode{' that change roles' if self.change_roles else ''}"
            if self.prefill
            else ""
        )
        steps = f", steps of {self.step_tokens} tokens" if self.step_tokens else ""
        window = "" if self.window is None else ", from {:g} s to {:g} s".format(*self.window)
        return (
            f"{self.limit * self.copies} requests, {self.warmup_requests} of them warm-up{longest}{scaled}{pace}{cells}"
            f"{steps}{roles}{tier}{window}"
        )


def workload_of(setup: Setup, qps: float, seed: int) -> Workload:
    """The caller's own. Raises ValueError."""
    disturbance = load_disturbance(setup.disturbance)
    if has_sessions(setup):
        workload = steady_sessions(_whole(setup), setup.limit * setup.copies, qps, seed)
    else:
        workload = at_rate(_overlaid(setup), qps)
    return _varied(workload, disturbance, 0 if has_sessions(setup) else seed)


def has_sessions(setup: Setup) -> bool:
    """Whether requests wait for others: a seed draws other sessions then, where else it moves arrivals."""
    return any(request.after is not None for request in _whole(setup).requests)


def trace_span_s(setup: Setup) -> tuple[float, float]:
    """When the first and the last request of the trace come, by its own clock."""
    requests = _whole(setup).requests
    return requests[0].arrival_s, requests[-1].arrival_s


def recorded_qps(setup: Setup) -> float:
    """Requests a second as the trace has them: a run at this rate has the trace's own times. Raises ValueError."""
    if has_sessions(setup):
        raise ValueError(f"{setup.trace}: its sessions wait for their turns, so that the trace has no rate of its own")
    requests = _overlaid(setup).requests
    span_s = requests[-1].arrival_s - requests[0].arrival_s
    if span_s <= 0:
        raise ValueError(f"{setup.trace}: all requests come at once, so that the trace has no rate of its own")
    return len(requests) / span_s


class Work(NamedTuple):
    """Seconds of an instance for a mean request, were everything that came before cached; what a step costs in any case
    is left out. tokens: that are computed for it, of prompt and answer."""

    prefill_s: float
    decode_s: float
    tokens: float

    @property
    def total_s(self) -> float:
        return self.prefill_s + self.decode_s


def work_of_request(setup: Setup) -> Work:
    model = load_model(setup.model)
    profile = model.profile
    seen: set[int] = set()
    prefill_s = decode_s = 0.0
    computed_tokens = 0
    requests = (_whole(setup) if has_sessions(setup) else _overlaid(setup)).requests
    for request in requests:
        cached = next((i for i, block in enumerate(request.blocks) if block not in seen), len(request.blocks))
        seen.update(request.blocks)
        before = min(cached * 512, request.prompt_tokens - 1)
        tokens = request.prompt_tokens - before
        computed_tokens += tokens + request.output_tokens
        prefill_s += tokens * profile.prefill_s_per_token
        prefill_s += tokens * (before + tokens / 2) * profile.attention_s_per_token_pair
        per_token_s = profile.decode_s_per_seq + request.prompt_tokens * profile.decode_s_per_context_token
        decode_s += request.output_tokens * per_token_s
    return Work(prefill_s / len(requests), decode_s / len(requests), computed_tokens / len(requests))


def _varied(workload: Workload, disturbance: Disturbance, seed: int) -> Workload:
    if seed == 0 and disturbance.burst_factor == 1:
        return workload
    rng = random.Random(seed)
    for request in workload.requests:
        if request.after is None:
            if disturbance.burst_factor != 1:
                request.arrival_s = burst_time_s(request.arrival_s, disturbance)
            if seed:
                request.arrival_s = max(request.arrival_s + rng.uniform(-JITTER_S, JITTER_S), 0.0)
    return in_order(workload.name, workload.requests)


def _whole(setup: Setup) -> Workload:
    wanted = setup.limit * setup.copies if is_synthetic(setup.trace) else 0
    return _read(setup.trace, setup.format, setup.max_prompt_tokens, setup.model, wanted, setup.window)


def _overlaid(setup: Setup) -> Workload:
    """Copies of what is made would have a hot prefix each: there is more of it instead."""
    if is_synthetic(setup.trace):
        return _whole(setup)
    return _copied(
        setup.trace, setup.format, setup.max_prompt_tokens, setup.model, setup.window, setup.limit, setup.copies
    )


@lru_cache(maxsize=2)
def _read(
    trace: str, format: str, max_prompt_tokens: int, model_name: str, made: int, window: tuple[float, float] | None
) -> Workload:
    """made: requests of a workload that is made; a trace is read as it is."""
    model = load_model(model_name)
    longest = model.profile.max_model_len - 1
    found = synthetic(trace, made) if made else read_workload(trace, format)
    whole = limit(found, max_prompt_tokens=min(max_prompt_tokens or longest, longest), window=window)
    if not whole.requests:
        within = "" if window is None else " from {:g} s to {:g} s".format(*window)
        raise ValueError(f"{trace}: no request with a prompt of at most {max_prompt_tokens or longest} tokens{within}")
    for request in whole.requests:
        request.output_tokens = _output_tokens(model, request.prompt_tokens, request.output_tokens)
    return whole


@lru_cache(maxsize=2)
def _copied(
    trace: str,
    format: str,
    max_prompt_tokens: int,
    model_name: str,
    window: tuple[float, float] | None,
    requests: int,
    overlays: int,
) -> Workload:
    return copies(limit(_read(trace, format, max_prompt_tokens, model_name, 0, window), requests), overlays)


def _output_tokens(model: Model, prompt_tokens: int, output_tokens: int) -> int:
    room = model.profile.max_model_len - prompt_tokens
    return max(min(output_tokens, room, model.max_output_tokens or room), 1)
