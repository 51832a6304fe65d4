"""Where plans are to be read: a file, or the process's log."""

import pytest

from dualmap.router.scaling.plan_log import PlanLog
from dualmap.scheduler.fleet.scaling_plan import ScalingPlan

PLAN = ScalingPlan(replicas=3, start=2, drain=(), reason="at least 3 wanted")


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("in_file", [True, False])
def test_each_plan_is_told_once(tmp_path, caplog, in_file, dry_run):
    path = tmp_path / "autoscaler.log"
    log = PlanLog(path if in_file else None)
    with caplog.at_level("INFO"):
        log.note(PLAN, dry_run)
        log.note(PLAN, dry_run)
    line = f"{'dry run: ' if dry_run else ''}start 2: at least 3 wanted"
    assert (path.read_text().count(line) if in_file else path.exists()) == in_file
    assert caplog.messages.count(line) == (dry_run and not in_file)
    assert len(log.untold) == (not dry_run)
