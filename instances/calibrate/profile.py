"""Timings of a server -> its profile, and the file that keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from dualmap.instances.calibrate.fit import Observation, fit_profile, mean_error
from dualmap.instances.calibrate.measure import Timings
from dualmap.instances.calibrate.server import CalibrateTarget
from dualmap.instances.calibrate.stream import CalibrateError
from dualmap.instances.simulated.engine_profile import EngineProfile, ProfileError
from dualmap.instances.simulated.profile_file import profile_text
from dualmap.scheduler.instance_capacity import InstanceCapacity

VLLM_BUDGETS = (2048, 8192, 16384)  # its defaults for max_num_batched_tokens: CPU and small GPUs, large ones, newest
VLLM_MAX_NUM_SEQS = 256


@dataclass(frozen=True, slots=True)
class Calibrated:
    """told: where the limits that vLLM does not tell come from, a line each."""

    profile: EngineProfile
    observations: list[Observation]
    told: list[str]

    @property
    def mean_error(self) -> float:
        return mean_error(self.observations, self.profile)


def calibrated(target: CalibrateTarget, timings: Timings, budget: int | None, max_num_seqs: int | None) -> Calibrated:
    """budget, max_num_seqs: as the user gave them. Raises CalibrateError."""
    if not timings.paces:
        raise CalibrateError("no token came in time: this machine or the server is busy with something else")
    told = []
    if budget is not None:
        told.append(f"max_num_batched_tokens {budget}: given")
    elif (budget := timings.budget()) is not None:
        told.append(
            f"max_num_batched_tokens {budget}: {timings.cut_tokens} tokens took {round(median(timings.cuts))} steps"
        )
    else:
        longest = max(tokens for tokens, _ in timings.prompts)
        budget = next((known for known in VLLM_BUDGETS if known >= longest), VLLM_BUDGETS[0])
        told.append(f"max_num_batched_tokens {budget}: assumed, since the steps of long prompts did not tell")
    if max_num_seqs is not None:
        told.append(f"max_num_seqs {max_num_seqs}: given")
    elif (max_num_seqs := timings.most_running) is not None:
        told.append(f"max_num_seqs {max_num_seqs}: of more streams only so many ran at once")
    else:
        max_num_seqs = VLLM_MAX_NUM_SEQS
        told.append(f"max_num_seqs {max_num_seqs}: assumed, vLLM's default")
    observations = timings.observations(target.block_size, budget)
    try:
        known = EngineProfile(
            block_size=target.block_size,
            kv_tokens=target.kv_tokens,
            max_num_batched_tokens=budget,
            max_num_seqs=max_num_seqs,
            max_model_len=min(target.max_model_len, target.kv_tokens // target.block_size * target.block_size),
        )
        profile = fit_profile(observations, known)
    except ProfileError as error:
        raise CalibrateError(f"what was measured makes no profile: {error}") from None
    if not profile.prefill_s_per_token:
        raise CalibrateError("longer prompts took no longer: this machine or the server is busy with something else")
    return Calibrated(profile, observations, told)


def residuals(result: Calibrated) -> list[str]:
    """A table of what was measured and what the profile makes of it."""
    lines = [f"{'':52}measured    profile     off"]
    for one in result.observations:
        made_s = one.seconds_of(result.profile)
        lines.append(f"{one.what:50}{one.seconds:8.4f} s {made_s:8.4f} s {made_s / one.seconds - 1:+7.1%}")
    return [*lines, f"mean error {result.mean_error:.1%}"]


def capacity_line(capacity: InstanceCapacity) -> str:
    """For an instance in the gateway's configuration."""
    names = ("prefill_tokens_per_s", "kv_tokens", "max_running", "attention_tokens")
    return "capacity: {" + ", ".join(f"{name}: {round(getattr(capacity, name))}" for name in names) + "}"


def file_text(result: Calibrated, capacity: InstanceCapacity, about: Sequence[str]) -> str:
    """about: where, when and what was measured."""
    comments = [
        *about,
        *result.told,
        "",
        *residuals(result),
        "",
        "for an instance in dualmap.yaml:",
        capacity_line(capacity),
    ]
    return profile_text(result.profile, comments)
