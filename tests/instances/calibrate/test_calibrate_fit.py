"""The constants of a profile are found again in the times it makes, whatever else disturbs some of them."""

import random
from dataclasses import replace

import pytest

from dualmap.instances.calibrate.fit import Observation, fit_profile, least_squares, mean_error, prompt_chunks
from dualmap.instances.simulated.engine_profile import EngineProfile

BUDGET = 2048
GPU = EngineProfile(prefill_s_per_token=0.000145, attention_s_per_token_pair=3.8e-9, api_s=0.004)
CPU = EngineProfile(
    step_base_s=0.0,
    step_overhead_s=0.006,
    prefill_s_per_token=0.00018,
    attention_s_per_token_pair=4e-8,
    api_s=0.01,
    decode_s_per_seq=0.0003,
    decode_s_per_context_token=6e-7,
)
PREFILL_ONLY = EngineProfile(step_base_s=0.001, decode_s_per_seq=0.0, decode_s_per_context_token=0.0)
CONSTANTS = (
    *("prefill_s_per_token", "attention_s_per_token_pair", "step_base_s", "step_overhead_s"),
    *("decode_s_per_seq", "decode_s_per_context_token", "api_s"),
)


def observed(truth: EngineProfile, *, noise: float = 0.0, outliers: float = 0.0, seed: int = 1) -> list[Observation]:
    """Of prompts cold and cached, and of decoding streams. noise: relative; outliers: share that took three times as
    long."""
    rng = random.Random(seed)
    found = [
        Observation(f"{tokens} tokens, {cached} cached", 0.0, 1, prompt_chunks(tokens, cached, BUDGET))
        for tokens in (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16000)
        for cached in (0, (tokens - 1) // 32 * 32)
    ]
    found += [
        Observation(f"{streams} streams", 0.0, 0, ((0, 0.0),), streams, streams * context)
        for streams in (1, 2, 4, 8, 16)
        for context in (64, 4096)
    ]
    return [
        replace(one, seconds=one.seconds_of(truth) * rng.gauss(1.0, noise) * (3 if rng.random() < outliers else 1))
        for one in found
    ]


@pytest.mark.parametrize("truth", [EngineProfile(), GPU, CPU, PREFILL_ONLY], ids=["default", "gpu", "cpu", "prefill"])
def test_exact_times_give_the_exact_constants(truth: EngineProfile) -> None:
    fitted = fit_profile(observed(truth), EngineProfile())
    for name in CONSTANTS:
        assert getattr(fitted, name) == pytest.approx(getattr(truth, name), rel=1e-6, abs=1e-12), name


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("truth", [GPU, CPU], ids=["gpu", "cpu"])
def test_noise_and_outliers_move_what_matters_little(truth: EngineProfile, seed: int) -> None:
    fitted = fit_profile(observed(truth, noise=0.03, outliers=0.1, seed=seed), EngineProfile())
    assert mean_error(observed(truth), fitted) < 0.06
    assert fitted.prefill_s_per_token == pytest.approx(truth.prefill_s_per_token, rel=0.1)
    assert fitted.step_base_s + fitted.step_overhead_s == pytest.approx(
        truth.step_base_s + truth.step_overhead_s, rel=0.1
    )
    assert (fitted.step_base_s == 0) == (truth.step_base_s == 0)


def test_what_is_known_stays_and_limits_are_not_fitted() -> None:
    known = EngineProfile(block_size=32, kv_tokens=64_000, max_model_len=16_384)
    fitted = fit_profile(observed(CPU), known)
    assert (fitted.block_size, fitted.kv_tokens, fitted.max_model_len) == (32, 64_000, 16_384)


def test_a_prompt_is_cut_by_the_budget_from_where_it_is_cached() -> None:
    assert prompt_chunks(10, 0, 4) == ((4, 8.0), (4, 24.0), (2, 18.0))
    assert prompt_chunks(10, 8, 4) == ((2, 18.0),)


def test_an_observation_takes_as_long_as_the_engines_own_steps() -> None:
    one = Observation("", 1.0, 1, ((100, 5000.0), (50, 6250.0)), 3, 1000.0)
    steps_s = CPU.step_s(100, 3, 1000, 5000.0) + CPU.step_s(50, 3, 1000, 6250.0)
    assert one.seconds_of(CPU) == pytest.approx(steps_s + CPU.api_s)


@pytest.mark.parametrize(
    ("rows", "targets", "found"),
    [
        ([[1, 0], [0, 1], [1, 1]], [2, 3, 5], [2, 3]),
        ([[1, 0], [1, 1], [1, 2]], [3, 2, 1], [2, 0]),  # without the bound the slope were -1
        ([[1, 2], [2, 4]], [1, 2], [1, 0]),  # the second tells nothing that the first does not
        ([[0, 1], [0, 2]], [1, 2], [0, 1]),
        ([[1], [1]], [-1, -1], [0]),
    ],
)
def test_least_squares_stay_at_or_above_zero(rows: list[list[float]], targets: list[float], found: list[float]) -> None:
    assert least_squares(rows, targets, [1.0] * len(rows)) == pytest.approx(found)


def test_weights_count() -> None:
    assert least_squares([[1.0], [1.0]], [0.0, 4.0], [3.0, 1.0]) == pytest.approx([1.0])
