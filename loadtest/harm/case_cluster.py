"""The cluster of a case, and what its instances bear."""

from collections.abc import Sequence
from dataclasses import fields, replace

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.profile_capacity import truthful_capacity
from dualmap.loadtest.harm.case import BLOCK_TOKENS, LONGEST_TOKENS, Case
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings, InstanceSpec
from dualmap.loadtest.virtual.models import load_model
from dualmap.scheduler.config import SchedulerConfig


def profile_of(case: Case, slowness: float = 1.0) -> EngineProfile:
    """slowness: time of everything, as a multiple of that of an instance that is not slow."""
    sized = replace(
        load_model("full").profile,
        kv_tokens=case.kv_tokens,
        offload_tokens=case.offload_tokens,
        max_model_len=LONGEST_TOKENS,
    )
    times = {field.name: getattr(sized, field.name) for field in fields(sized) if field.type is float}
    return replace(sized, **{name: value * slowness / case.speed for name, value in times.items()})


def cluster_of(case: Case, policy: str) -> ClusterSettings:
    """Slow instances are the first ones."""
    return ClusterSettings(
        SchedulerConfig(policy=policy, ttft_slo_s=case.slo_s),
        [_instance(case, f"i{number}", slow=number < case.slow_instances) for number in range(case.instances)],
        gateways=case.gateways,
        digest_s=0.1,
    )


def fleet_speed(case: Case) -> float:
    """Of all instances together, in instances that are not slow."""
    return case.instances - case.slow_instances * (1 - 1 / case.slow_factor)


def request_s(case: Case, lengths: Sequence[tuple[int, int, int]]) -> float:
    """Seconds of an instance for a mean request, where the instance has as many at once as it can.

    lengths: for each request the tokens of its prompt that are cached, of its prompt, and of its answer.
    """
    profile = profile_of(case)
    context = sum(prompt + answer / 2 for _, prompt, answer in lengths) / len(lengths)
    at_once = max(min(profile.max_num_seqs, profile.kv_tokens / context), 1.0)
    total_s = 0.0
    for cached, prompt, answer in lengths:
        tokens = prompt - cached
        total_s += tokens * profile.prefill_s_per_token
        total_s += tokens * (cached + tokens / 2) * profile.attention_s_per_token_pair
        each_s = profile.decode_s_per_seq + (prompt + answer / 2) * profile.decode_s_per_context_token
        total_s += answer * (profile.step_base_s / at_once + each_s)
    return total_s / len(lengths)


def _instance(case: Case, name: str, *, slow: bool) -> InstanceSpec:
    slowness = case.slow_factor if slow else 1.0
    profile = profile_of(case, slowness)
    if case.told:
        return InstanceSpec(name, profile, replace(truthful_capacity(profile), weight=1 / slowness))
    believed = truthful_capacity(profile_of(replace(case, speed=1.0)))
    return InstanceSpec(name, profile, believed)


def cache_blocks(case: Case) -> int:
    """Blocks of prefixes that an instance keeps."""
    return max(case.kv_tokens, case.offload_tokens) // BLOCK_TOKENS
