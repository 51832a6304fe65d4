"""What a gateway is told of an instance with a profile."""

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.scheduler.instance_capacity import InstanceCapacity


def cached_by(profile: EngineProfile) -> int:
    """Tokens of prefixes that an instance can keep."""
    return max(profile.offload_tokens, profile.kv_tokens)


def truthful_capacity(profile: EngineProfile) -> InstanceCapacity:
    """What a measurement of the idle instance would tell the gateway. Raises ConfigError if prompts cost nothing."""
    token_s, pair_s = profile.prefill_s_per_token, profile.attention_s_per_token_pair
    return InstanceCapacity(
        prefill_tokens_per_s=1.0 / token_s if token_s else 0.0,
        kv_tokens=profile.kv_tokens,
        max_running=profile.max_num_seqs,
        cache_tokens=cached_by(profile),
        attention_tokens=round(token_s / pair_s) if pair_s else 0,
    )
