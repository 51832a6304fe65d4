"""What the cores of a pool have counted, for scaling."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields, replace
from operator import add, sub
from typing import Any

from dualmap.scheduler.role import Role
from dualmap.scheduler.stats import SchedulerStats


@dataclass(frozen=True, slots=True)
class PoolTotals:
    """Counters of SchedulerStats, of one gateway or of all: requests placed for the first time, their prefill work,
    first tokens within the objective, and those that were late or never came; answers whose tokens came at the pace of
    their objective, and slower ones; of the requests and their prefill work, what prefill legs are; of these, those
    that ended before the first token was due, and later ones; of the late first tokens, those that legs made late; of
    the answers, their times per token against the objectives, added up, where roles are counted apart."""

    arrived: int = 0
    arrived_work_tokens: int = 0
    slo_kept: int = 0
    _: KW_ONLY
    slo_missed: int = 0
    tpot_kept: int = 0
    tpot_missed: int = 0
    legs: int = 0
    leg_tokens: int = 0
    legs_kept: int = 0
    legs_missed: int = 0
    missed_by_legs: int = 0
    tpot_used: float = 0.0

    @classmethod
    def of(cls, stats: SchedulerStats) -> "PoolTotals":
        """What a core has counted."""
        return cls(
            arrived=stats.arrived,
            arrived_work_tokens=stats.arrived_work_tokens,
            slo_kept=stats.slo_kept,
            slo_missed=stats.slo_missed,
            tpot_kept=stats.tpot_kept,
            tpot_missed=stats.tpot_missed,
            legs=stats.arrived_legs,
            leg_tokens=stats.arrived_leg_tokens,
            legs_kept=stats.legs_kept,
            legs_missed=stats.legs_missed,
            missed_by_legs=stats.missed_by_legs,
            tpot_used=stats.tpot_used,
        )

    def of_role(self, role: Role) -> "PoolTotals":
        """What instances of that role had to do with: who prefills, with prefill legs; who decodes, with requests that
        run whole, with the pace of all answers, and with first tokens that were not late already when it got them."""
        match role:
            case Role.BOTH:
                return replace(self, tpot_used=0.0)
            case Role.PREFILL:
                return PoolTotals(self.legs, self.leg_tokens, self.legs_kept, slo_missed=self.legs_missed)
            case Role.DECODE:
                return replace(
                    self,
                    arrived=self.arrived - self.legs,
                    arrived_work_tokens=self.arrived_work_tokens - self.leg_tokens,
                    slo_missed=self.slo_missed - self.missed_by_legs,
                )

    def __add__(self, other: "PoolTotals") -> "PoolTotals":
        return self._with(other, add)

    def __sub__(self, other: "PoolTotals") -> "PoolTotals":
        return self._with(other, sub)

    def _with(self, other: "PoolTotals", operation: Callable[[float, float], float]) -> "PoolTotals":
        names = [field.name for field in fields(self)]
        values: dict[str, Any] = {name: operation(getattr(self, name), getattr(other, name)) for name in names}
        return PoolTotals(**values)
