"""Simulation jobs over processes. What a job has done when it is ended is kept; what it was doing is lost."""

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple, cast

from dualmap.loadtest.study.simulation_jobs import Job, OnRow
from dualmap.router.config.installed_policies import register_installed_policies


class JobError(RuntimeError):
    """A job raised; the message says what."""


class Watch(NamedTuple):
    """prepare: changes a job right before it starts, with what is known by then."""

    on_row: OnRow
    on_done: Callable[[Job], None] = lambda job: None
    prepare: Callable[[Job], Job] = lambda job: job


def run_jobs(jobs: Sequence[Job], processes: int, watch: Watch) -> None:
    """In order as far as processes go. Raises JobError for the first job that does not work, ValueError for one that
    cannot be done, KeyboardInterrupt; all processes have ended then. One process: here, in this one."""
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            watch.prepare(job).do(watch.on_row)
            watch.on_done(job)
        return
    crew = _Crew(min(processes, len(jobs)))
    try:
        crew.work_off(jobs, watch)
    finally:
        crew.end()


class _Crew:
    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")  # no worker holds another's pipe open
        self._processes: dict[Connection, BaseProcess] = {}
        for _ in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process

    def work_off(self, jobs: Iterable[Job], watch: Watch) -> None:
        left = deque(jobs)
        doing: dict[Connection, Job] = {}
        for pipe in self._processes:
            self._next(pipe, left, doing, watch)
        while doing:
            for ready in wait(list(doing)):
                pipe = cast(Connection, ready)
                try:
                    what, told = pipe.recv()
                except EOFError:
                    raise JobError("a worker ended without a word: out of memory?") from None
                if what == "row":
                    watch.on_row(told)
                elif what == "done":
                    watch.on_done(doing.pop(pipe))
                    self._next(pipe, left, doing, watch)
                else:
                    raise ValueError(told) if what == "refused" else JobError(told)

    def _next(self, pipe: Connection, left: deque[Job], doing: dict[Connection, Job], watch: Watch) -> None:
        if left:
            doing[pipe] = left.popleft()
            pipe.send(watch.prepare(doing[pipe]))

    def end(self) -> None:
        for pipe, process in self._processes.items():
            process.terminate()
            pipe.close()
        for process in self._processes.values():
            process.join()


def _work(pipe: Connection) -> None:
    """Until the owner closes the pipe. A Ctrl-C is the owner's to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    register_installed_policies()
    try:
        while True:
            job: Job = pipe.recv()
            try:
                job.do(lambda row: pipe.send(("row", row)))
            except ValueError as error:
                pipe.send(("refused", str(error)))
            except OSError:
                raise
            except Exception:
                pipe.send(("failed", traceback.format_exc()))
            else:
                pipe.send(("done", None))
    except (EOFError, OSError):
        return  # the owner is gone
