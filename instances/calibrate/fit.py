"""Measured times -> the constants of EngineProfile, by least squares. Pure.

Each observation is linear in six constants, none of them negative: what a request costs outside the engine, what a step
costs in any case, a prompt token, a pair of tokens in attention, a decoding sequence, a token of its context. Errors
count in proportion to the time measured, and less the further out they lie (Huber's weights), so that what else the
machine did moves nothing.

A step's fixed cost either comes on top of computing its prompt tokens or hides it: both are tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from dualmap.instances.simulated.engine_profile import EngineProfile

ROUNDS = 30  # of reweighting; it settles in a few
CLEAR = 1.5  # typical errors: further out than this is an outlier
LEAST_ERROR = 0.002  # typical error taken for the weights, so that exact data has no outliers
CLEARLY = 0.8  # of the other's error
SINGULAR = 1e-9  # of a column's own square, left after elimination: others explain it


@dataclass(frozen=True, slots=True)
class Observation:
    """seconds: of steps that ran one after the other, each with so many (prompt tokens, pairs of tokens) as `chunks`
    says, and of the way of `requests` (0 or 1) through the server. decode_seqs, context_tokens: in each step."""

    what: str
    seconds: float
    requests: int
    chunks: tuple[tuple[int, float], ...]
    decode_seqs: int = 0
    context_tokens: float = 0.0

    def seconds_of(self, profile: EngineProfile) -> float:
        """What the profile makes of it."""
        steps_s = (
            profile.step_s(tokens, self.decode_seqs, 0, pairs)
            + self.context_tokens * profile.decode_s_per_context_token
            for tokens, pairs in self.chunks
        )
        return self.requests * profile.api_s + sum(steps_s)


def prompt_chunks(tokens: int, cached: int, budget: int) -> tuple[tuple[int, float], ...]:
    """The steps of a prompt that is alone, as `Observation.chunks` has them."""
    starts = range(cached, tokens, budget)
    sizes = [min(budget, tokens - start) for start in starts]
    return tuple((size, size * (start + size / 2)) for start, size in zip(starts, sizes, strict=True))


def fit_profile(observations: Sequence[Observation], known: EngineProfile) -> EngineProfile:
    """`known` with the constants that suit the observations best. A fixed cost that hides the computing has to be told
    clearly from one on top of it: it would else take the place of what a request costs outside the engine."""
    on_top, hiding = (_fit(observations, known, overlap) for overlap in (False, True))
    return hiding if _core_error(observations, hiding) < CLEARLY * _core_error(observations, on_top) else on_top


def mean_error(observations: Sequence[Observation], profile: EngineProfile) -> float:
    """Mean absolute error, as a share of what was measured."""
    return fmean(abs(o.seconds_of(profile) / o.seconds - 1) for o in observations)


def _core_error(observations: Sequence[Observation], profile: EngineProfile) -> float:
    """Mean absolute error without the worst fifth."""
    errors = sorted(abs(o.seconds_of(profile) / o.seconds - 1) for o in observations)
    return fmean(errors[: max(len(errors) * 4 // 5, 1)])


def _fit(observations: Sequence[Observation], known: EngineProfile, overlap: bool) -> EngineProfile:
    """overlap: whether a step's fixed cost hides the computing. Which of the two is longer in a step depends on the
    answer, so that is looked at again each time."""
    profile: EngineProfile | None = None
    weights = [1.0] * len(observations)
    for _ in range(ROUNDS):
        rows = [[x / o.seconds for x in _row(o, profile if overlap else None)] for o in observations]
        profile = _with(known, least_squares(rows, [1.0] * len(rows), weights), overlap)
        errors = [abs(o.seconds_of(profile) / o.seconds - 1) for o in observations]
        outlying = CLEAR * max(median(errors), LEAST_ERROR)
        weights = [min(1.0, outlying / error) if error else 1.0 for error in errors]
    assert profile is not None
    return profile


def _row(o: Observation, hiding: EngineProfile | None) -> list[float]:
    """How often each constant is in the observation. hiding: takes either the fixed cost or the computing of each step,
    whichever is longer in this profile; None: both."""
    fixed, tokens, pairs = 0, 0, 0.0
    for chunk_tokens, chunk_pairs in o.chunks:
        computed_s = 0.0
        if hiding is not None:
            computed_s = chunk_tokens * hiding.prefill_s_per_token + chunk_pairs * hiding.attention_s_per_token_pair
        if hiding is None or computed_s <= hiding.step_base_s:
            fixed += 1
        if hiding is None or computed_s > hiding.step_base_s:
            tokens += chunk_tokens
            pairs += chunk_pairs
    steps = len(o.chunks)
    return [o.requests, fixed, tokens, pairs, steps * o.decode_seqs, steps * o.context_tokens]


def _with(known: EngineProfile, found: Sequence[float], overlap: bool) -> EngineProfile:
    api_s, fixed_s, per_token_s, per_pair_s, per_seq_s, per_context_token_s = found
    return replace(
        known,
        api_s=api_s,
        step_base_s=fixed_s if overlap else 0.0,
        step_overhead_s=0.0 if overlap else fixed_s,
        prefill_s_per_token=per_token_s,
        attention_s_per_token_pair=per_pair_s,
        decode_s_per_seq=per_seq_s,
        decode_s_per_context_token=per_context_token_s,
    )


def least_squares(rows: Sequence[Sequence[float]], targets: Sequence[float], weights: Sequence[float]) -> list[float]:
    """x >= 0 with the least sum of weights * (rows x - targets)^2. What the rows do not tell is 0.

    By the normal equations, of columns brought to length 1; a column whose x comes out negative is left out, the most
    negative first, and the rest solved again.
    """
    columns = range(len(rows[0]))
    lengths = [sum(w * row[i] ** 2 for row, w in zip(rows, weights, strict=True)) ** 0.5 for i in columns]
    used = [i for i in columns if lengths[i] > 0]
    while used:
        normal = [
            [
                sum(w * row[i] * row[j] for row, w in zip(rows, weights, strict=True)) / (lengths[i] * lengths[j])
                for j in used
            ]
            for i in used
        ]
        right = [
            sum(w * row[i] * t for row, t, w in zip(rows, targets, weights, strict=True)) / lengths[i] for i in used
        ]
        scaled = _solve(normal, right)
        worst = min(range(len(used)), key=scaled.__getitem__)
        if scaled[worst] >= 0:
            found = {i: x / lengths[i] for i, x in zip(used, scaled, strict=True)}
            return [found.get(i, 0.0) for i in columns]
        del used[worst]
    return [0.0 for _ in columns]


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Of a symmetric matrix with ones on its diagonal, by elimination; 0 for an unknown that others explain."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    told: list[int] = []
    for i in range(size):
        if abs(rows[i][i]) < SINGULAR:
            continue
        told.append(i)
        for j in range(size):
            if j != i:
                factor = rows[j][i] / rows[i][i]
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [rows[i][size] / rows[i][i] if i in told else 0.0 for i in range(size)]
