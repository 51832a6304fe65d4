"""What "within its objective" means for a request, by name, and the share of tokens that were served so. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf, isnan
from typing import NamedTuple

from dualmap.instances.simulated.engine_profile import EngineProfile

TTFT, TTFT_TPOT, ITL_E2E, TTFT_BY_LENGTH = "ttft", "ttft+tpot", "itl+e2e", "ttft-by-length"
IN_WORDS = {
    TTFT: "first token within the SLO",
    TTFT_TPOT: "first token within the SLO and a steady pace of the tokens after it",
    ITL_E2E: "a steady pace of tokens, and all of the answer in 3.5 times what it takes alone",
    TTFT_BY_LENGTH: "first token within 1 s and 62.5 ms for each 1,000 tokens of the prompt",
}
OBJECTIVES = tuple(IN_WORDS)

TPOT_S = 0.1  # ten tokens a second: about as fast as people read
ITL_S = 0.1
E2E_FACTOR = 3.5  # the widest of three limits that a campaign of NVIDIA published: 1.16, 2.1 and 3.5
BASE_S, PER_TOKEN_S = 1.0, 62.5e-6  # SMetric, arXiv 2607.08565


class Limits(NamedTuple):
    """The most that a request may take, in seconds: to its first token, for each token after it on average, and as a
    whole."""

    ttft_s: float = inf
    tpot_s: float = inf
    e2e_s: float = inf

    def missed(self, arrived_s: float, first_token_s: float, finished_s: float, output_tokens: int) -> bool:
        """Whether a limit is known to be passed. Times are nan where they have not come yet."""
        ttft_s = first_token_s - arrived_s
        pace_s = (finished_s - first_token_s) / (output_tokens - 1) if output_tokens > 1 else 0.0
        late = ttft_s > self.ttft_s or ttft_s > self.e2e_s  # the whole takes no less than its part
        return late or pace_s > self.tpot_s or finished_s - arrived_s > self.e2e_s

    def kept(self, arrived_s: float, first_token_s: float, finished_s: float, output_tokens: int) -> bool:
        return not isnan(finished_s) and not self.missed(arrived_s, first_token_s, finished_s, output_tokens)


@dataclass(frozen=True, slots=True)
class Promises:
    """What the limits of a cluster's requests follow from. slo_s: to the first token. tpot_s: for each token after it.
    profile: of an instance of usual speed."""

    slo_s: float
    tpot_s: float
    profile: EngineProfile

    def limits(self, objective: str, prompt_tokens: int, output_tokens: int) -> Limits:
        """Raises ValueError for a name that is none of OBJECTIVES."""
        match objective:
            case "ttft":
                return Limits(self.slo_s)
            case "ttft+tpot":
                return Limits(self.slo_s, self.tpot_s)
            case "itl+e2e":
                whole_s = E2E_FACTOR * alone_s(self.profile, prompt_tokens, output_tokens)
                return Limits(tpot_s=ITL_S, e2e_s=whole_s)
            case "ttft-by-length":
                return Limits(BASE_S + PER_TOKEN_S * prompt_tokens)
        raise ValueError(f"no objective {objective!r}: there are {', '.join(OBJECTIVES)}")


def alone_s(profile: EngineProfile, prompt_tokens: int, output_tokens: int) -> float:
    """Seconds of a request on an idle instance that has nothing cached, the network left out.

    The prompt of n tokens is computed in ceil(n / b) steps of b = max_num_batched_tokens, the last of which gives the
    first token; each of the m = output_tokens - 1 others is a step that reads n, n + 1, ... n + m - 1 tokens of
    context, n m + m (m - 1) / 2 together.
    """
    batch = profile.max_num_batched_tokens
    total_s = profile.api_s
    for number in range(ceil(prompt_tokens / batch)):
        before = number * batch
        tokens = min(batch, prompt_tokens - before)
        total_s += profile.step_s(tokens, 0, 0, tokens * (before + tokens / 2))
    steps = output_tokens - 1
    context_tokens = prompt_tokens * steps + steps * (steps - 1) // 2
    return total_s + steps * profile.step_s(0, 1, 0) + context_tokens * profile.decode_s_per_context_token


def token_goodput(requests: Iterable[tuple[int, bool]]) -> float | None:
    """Of all tokens, the share of those in requests within the objective; None of nothing. A long request counts for
    more than a short one. requests: tokens of prompt and answer, and whether the objective was kept."""
    kept = total = 0
    for tokens, within in requests:
        total += tokens
        kept += tokens if within else 0
    return kept / total if total else None
