"""What a profile accepts, and how long its steps are."""

import pytest

from dualmap.instances.simulated.engine_profile import EngineProfile, ProfileError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_size": 0}, "block_size must be a whole number of at least 1, not 0"),
        ({"offload_tokens": -1}, "offload_tokens must be a whole number of at least 0, not -1"),
        ({"offload_tokens": 0.5}, "offload_tokens must be a whole number of at least 0, not 0.5"),
        ({"max_num_seqs": 2.5}, "max_num_seqs must be a whole number"),
        ({"step_base_s": -1.0}, "step_base_s must be a number of seconds of at least 0, not -1.0"),
        ({"prefill_s_per_token": float("inf")}, "prefill_s_per_token must be a number of seconds"),
        ({"prefill_s_per_token": float("nan")}, "prefill_s_per_token must be a number of seconds"),
        ({"kv_tokens": 15}, "kv_tokens must be at least block_size (16), not 15"),
        ({"step_base_s": 0.0, "prefill_s_per_token": 0.0}, "time would stand still"),
        ({"max_num_seqs": 9000}, "max_num_seqs must be at most max_num_batched_tokens (8192)"),
        ({"kv_tokens": 100, "max_model_len": 97}, "max_model_len must be at most what kv_tokens holds (96)"),
    ],
)
def test_a_broken_rule_is_named_with_field_and_value(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ProfileError) as error:
        EngineProfile(**fields)
    assert message in str(error.value)


def test_a_step_is_never_shorter_than_reading_the_weights() -> None:
    profile = EngineProfile()
    assert profile.step_s(1, 0, 0) == profile.step_base_s
    assert profile.step_s(1000, 0, 0) == pytest.approx(1000 * profile.prefill_s_per_token)


def test_decoding_comes_on_top_by_sequence_and_by_context() -> None:
    profile = EngineProfile()
    one = profile.step_s(0, 1, 1000)
    assert one == pytest.approx(
        profile.step_base_s + profile.decode_s_per_seq + 1000 * profile.decode_s_per_context_token
    )
    assert profile.step_s(0, 2, 1000) > one
    assert profile.step_s(0, 1, 2000) > one


def test_attention_between_tokens_can_be_priced() -> None:
    profile = EngineProfile(attention_s_per_token_pair=1e-6)
    assert profile.step_s(1000, 0, 0, token_pairs=1e6) == pytest.approx(1000 * profile.prefill_s_per_token + 1.0)


def test_by_default_there_is_no_tier_behind_the_pool() -> None:
    assert EngineProfile().offload_tokens == 0
    assert EngineProfile(offload_tokens=1_000_000).pool_blocks == EngineProfile().pool_blocks


def test_an_overhead_comes_on_top_of_every_step_and_the_api_of_none() -> None:
    profile = EngineProfile(step_base_s=0.0, step_overhead_s=0.006, api_s=0.01)
    assert profile.step_s(0, 0, 0) == pytest.approx(0.006)
    assert profile.step_s(1000, 0, 0) == pytest.approx(0.006 + 1000 * profile.prefill_s_per_token)
