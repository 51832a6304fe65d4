"""The plans of an Autoscaler, for people: the last ones, and a log file of those that start or drain."""

import logging
import time
from collections import deque
from pathlib import Path
from typing import Any

from dualmap.scheduler.fleet.fleet_event import EventKind, FleetEvent
from dualmap.scheduler.fleet.scaling_plan import ScalingPlan
from dualmap.scheduler.role import Role

logger = logging.getLogger(__name__)

PLANS_KEPT = 50
MOST_UNTOLD = 50


class PlanLog:
    """plans: as plain values, the last one last. at: seconds since 1970. untold: those that acted, for Fleet to
    tell."""

    def __init__(self, path: Path | None, pool: str = "", role: Role = Role.BOTH) -> None:
        """path: None: there is no file, all goes to this process's log. role: of the instances planned for."""
        self._path = path
        self._pool = pool
        self._role = "" if role is Role.BOTH else role.value
        self.untold: deque[FleetEvent] = deque(maxlen=MOST_UNTOLD)
        self.plans: deque[dict[str, Any]] = deque(maxlen=PLANS_KEPT)

    def note(self, plan: ScalingPlan, dry_run: bool) -> None:
        """A plan that does the same as the one before only replaces its reason."""
        done = {"replicas": plan.replicas, "start": plan.start, "drain": list(plan.drain)}
        if self.plans and all(self.plans[-1][name] == value for name, value in done.items()):
            self.plans[-1]["reason"] = plan.reason
            return
        self.plans.append({"at": time.time(), **done, "reason": plan.reason})
        if plan.start or plan.drain:
            what = f"start {plan.start}" if plan.start else f"drain {', '.join(plan.drain)}"
            what = f"{self._role} {what}".lstrip()
            if not dry_run:
                self.untold.append(self._event(plan))
            elif self._path is None:  # what acts is told as an event
                logger.info("dry run: %s: %s", what, plan.reason)
            self._write(f"{'dry run: ' if dry_run else ''}{what}: {plan.reason}")

    def _write(self, line: str) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a") as log:
                log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")
        except OSError:
            logger.exception("a plan is not in %s", self._path)

    def _event(self, plan: ScalingPlan) -> FleetEvent:
        act = ("start", plan.start) if plan.start else ("drain", ", ".join(plan.drain))
        return FleetEvent(
            at=time.time(),
            kind=EventKind.SCALING_ACTED,
            pool=self._pool,
            reason=plan.reason,
            fields=(*((("role", self._role),) if self._role else ()), ("replicas", plan.replicas), act),
        )
