"""What a cluster has to bear besides load: wrong numbers, late news, slow, unequal, lost and cold instances, bursts.

Each is data; `dualmap.loadtest.study.simulation` makes settings of it. A file may give others, by the same fields.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from dualmap.instances.simulated.profile_file import read_mapping


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Shares and counts are of instances; moments are shares of the time in which requests arrive.

    told_s_per_token: seconds a prompt token that the gateways are told, against the truth.
    gateways: so many at least. digest_s, digest_delay_s: how often they tell each other their load, besides when it is
        wanted at once, and how late the answer comes; None: at once.
    slow_count, slow_factor: these take so much longer for each step, from the start, and nobody is told.
    fast_share, fast_factor: these are so much faster; the gateways are told, and weight them accordingly.
    burst_factor, burst_s, burst_period_s: rate of arrival against the mean, for burst_s in each period; between the
        bursts it is so much lower that the mean stays.
    cold_share, cold_at: these join at that moment.
    lost_count, lost_at, back_at: these are lost and come back with an empty cache.
    count_warmup: the first requests count, too.
    tell_output: the gateways are told how long each answer will be. name_sessions: clients name their sessions.
    """

    name: str = "none"
    told_s_per_token: float = 1.0
    gateways: int = 1
    digest_s: float = 0.1
    digest_delay_s: float | None = None
    slow_count: int = 0
    slow_factor: float = 2.0
    fast_share: float = 0.0
    fast_factor: float = 2.0
    burst_factor: float = 1.0
    burst_s: float = 30.0
    burst_period_s: float = 300.0
    cold_share: float = 0.0
    cold_at: float = 0.5
    lost_count: int = 0
    lost_at: float = 1 / 3
    back_at: float = 2 / 3
    count_warmup: bool = False
    tell_output: bool = False
    name_sessions: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_share") and not 0 <= value < 1:
                raise ValueError(f"{field.name} must be at least 0 and below 1, not {value!r}")
            if field.name.endswith("_count") and value < 0:
                raise ValueError(f"{field.name} must be at least 0, not {value!r}")
            if field.name.endswith("_at") and not 0 <= value <= 1:
                raise ValueError(f"{field.name} must be at least 0 and at most 1, not {value!r}")
            if field.name in _ABOVE_0 and not value > 0:
                raise ValueError(f"{field.name} must be greater than 0, not {value!r}")
        if self.digest_delay_s is not None and not self.digest_delay_s >= 0:
            raise ValueError(f"digest_delay_s must be at least 0, not {self.digest_delay_s!r}")
        if not self.burst_s < self.burst_period_s:
            raise ValueError(f"burst_s must be below burst_period_s={self.burst_period_s}, not {self.burst_s!r}")
        if not self.burst_factor * self.burst_s < self.burst_period_s:
            raise ValueError(
                f"burst_factor must be below burst_period_s / burst_s={self.burst_period_s / self.burst_s:g}, "
                f"so that something arrives between the bursts, not {self.burst_factor!r}"
            )
        if not self.lost_at < self.back_at:
            raise ValueError(f"back_at must be after lost_at={self.lost_at}, not {self.back_at!r}")


_ABOVE_0 = (
    "told_s_per_token",
    "gateways",
    "digest_s",
    "slow_factor",
    "fast_factor",
    "burst_factor",
    "burst_s",
    "burst_period_s",
)

DISTURBANCES = {
    each.name: each
    for each in (
        Disturbance(),
        Disturbance("spt-x0.5", told_s_per_token=0.5),
        Disturbance("spt-x2", told_s_per_token=2.0),
        Disturbance("gateways-4", gateways=4),
        Disturbance("signals-50ms", gateways=4, digest_delay_s=0.05),
        Disturbance("signals-200ms", gateways=4, digest_delay_s=0.2),
        Disturbance("stale", gateways=4, digest_s=1.0, digest_delay_s=1.0),
        Disturbance("slow-one", slow_count=1),
        Disturbance("hetero", fast_share=0.5),
        Disturbance("burst", burst_factor=3.0),
        Disturbance("cold-start", cold_share=0.25, count_warmup=True),
        Disturbance("lose-one", lost_count=1),
        Disturbance("told-answers", tell_output=True),
        Disturbance("named-sessions", name_sessions=True),
    )
}


def load_disturbance(name: str) -> Disturbance:
    """A name of DISTURBANCES, or a JSON or YAML file. Raises ValueError."""
    if name in DISTURBANCES:
        return DISTURBANCES[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"no disturbance {name!r}: there are {', '.join(DISTURBANCES)}, or the name of a file")
    values = read_mapping(path)
    known = {field.name: field.type for field in fields(Disturbance)}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{path}: unknown field {key!r}; known are {', '.join(sorted(known))}")
        wanted = (int, float) if known[key] not in (bool, int, str) else (known[key],)
        if type(value) not in wanted:
            raise ValueError(
                f"{path}: {key} must be {' or '.join(getattr(t, '__name__', '') for t in wanted)}, not {value!r}"
            )
    try:
        return replace(Disturbance(name=path.stem), **values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def can_bound(disturbance: Disturbance) -> bool:
    """Whether the bound knows how to serve a cluster that has it: one queue, instances that stay."""
    return not (disturbance.lost_count or disturbance.cold_share or disturbance.gateways > 1)


def burst_time_s(even_s: float, disturbance: Disturbance) -> float:
    """When a request arrives that would arrive at even_s without bursts. A burst is in the middle of each period."""
    period_s, burst_s = disturbance.burst_period_s, disturbance.burst_s
    calm_rate = (period_s - burst_s * disturbance.burst_factor) / (period_s - burst_s)
    whole, left_s = divmod(even_s, period_s)
    calm_s = (period_s - burst_s) / 2
    if left_s < calm_s * calm_rate:
        within_s = left_s / calm_rate
    elif left_s < calm_s * calm_rate + burst_s * disturbance.burst_factor:
        within_s = calm_s + (left_s - calm_s * calm_rate) / disturbance.burst_factor
    else:
        within_s = period_s - (period_s - left_s) / calm_rate
    return whole * period_s + within_s
