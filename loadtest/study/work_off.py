"""Jobs of a study, from what its file lacks to the last row, with a line on stderr that says how far it is."""

from collections.abc import Sequence

from dualmap.loadtest.study.file import StudyCapacity, StudyRun
from dualmap.loadtest.study.job_progress import JobProgress
from dualmap.loadtest.study.log import StudyLog
from dualmap.loadtest.study.simulation_jobs import CapacityJob, Job, prepared, weight, what_is_left
from dualmap.loadtest.study.workers import Watch, run_jobs


def work_off(jobs: Sequence[Job], log: StudyLog, processes: int) -> None:
    """Raises ValueError, JobError and KeyboardInterrupt; what is finished by then is in the log."""
    left = [job for job in (what_is_left(job, log) for job in jobs) if job is not None]
    if not left:
        return
    searches = any(isinstance(job, CapacityJob) for job in left)
    progress = JobProgress(len(left), sum(map(weight, left)), "searches" if searches else "jobs")

    def on_row(row: StudyRun | StudyCapacity) -> None:
        log.add(row)
        if isinstance(row, StudyRun):
            progress.ran(f"{row.policy} at {row.qps:g}: {row.attainment:.1%}")
        progress.show()

    def on_done(job: Job) -> None:
        progress.finished(weight(job))
        progress.show()

    try:
        run_jobs(left, processes, Watch(on_row, on_done, lambda job: prepared(job, log)))
    finally:
        progress.end()
