"""A pytest plugin that runs the tests once, and then again with each mutant, in a fork."""

import gc
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, FunctionType

import hypothesis
import pytest

from tests.mutation.mutants import Mutant, mutants_of

SLOWER = 10.0  # a mutant whose tests take so many times as long never ends: it is noticed
LEAST_S = 10.0


class Reports:
    """Whether a test has failed."""

    def __init__(self) -> None:
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed


class MutationRun:
    """files: of the mutants. budget_s: of CPU."""

    def __init__(self, files: list[Path], budget_s: float) -> None:
        self._files = [path.resolve() for path in files]
        self._budget_s = budget_s
        self._reports = Reports()
        self._tests: dict[CodeType, list[pytest.Item]] = {}  # those that call the function, the quickest first
        self._took_s: dict[pytest.Item, float] = {}

    def pytest_configure(self, config: pytest.Config) -> None:
        hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
        hypothesis.settings.load_profile("repeatable")
        config.pluginmanager.register(self._reports)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        made = [mutant for path in self._files for mutant in mutants_of(path)]
        for item in session.items:
            with self._calls_noted(item):
                self._run(item)
            if self._reports.failed:
                raise session.Failed(f"{item.nodeid} fails without any mutant")
        for items in self._tests.values():
            items.sort(key=self._took_s.__getitem__)
        survived = 0
        for number, mutant in enumerate(made):
            if _cpu_s() > self._budget_s:
                print(f"\nthe CPU time is used up after {number} of {len(made)} mutants")
                break
            items = self._tests_of(mutant)
            if not self._is_noticed(mutant, items):
                survived += 1
                print(f"\n{mutant}{'' if items else '  (no test runs it)'}", end="", flush=True)
        print(f"\n{survived} of {len(made)} mutants survive {len(session.items)} tests", flush=True)
        return True

    def _run(self, item: pytest.Item) -> None:
        item._initrequest()  # type: ignore[attr-defined]  # as after the first time
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)

    @contextmanager
    def _calls_noted(self, item: pytest.Item) -> Iterator[None]:
        called: set[CodeType] = set()
        wanted = {str(path) for path in self._files}
        known: dict[CodeType, bool] = {}

        def note(frame: FrameType, event: str, arg: object) -> None:
            code = frame.f_code
            if code not in known:
                known[code] = os.path.realpath(code.co_filename) in wanted
            if known[code]:
                called.add(code)

        begun_s = time.process_time()
        sys.settrace(note)
        threading.settrace(note)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        self._took_s[item] = time.process_time() - begun_s
        for code in called:
            self._tests.setdefault(code, []).append(item)

    def _tests_of(self, mutant: Mutant) -> list[pytest.Item]:
        return next((items for code, items in self._tests.items() if _is_same(code, mutant)), [])

    def _is_noticed(self, mutant: Mutant, items: list[pytest.Item]) -> bool:
        if not items:
            return False
        pid = os.fork()
        if not pid:
            original = next(code for code in self._tests if _is_same(code, mutant))
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, sys.stdout.fileno())
            os.dup2(silence, sys.stderr.fileno())
            functions = [found for found in gc.get_referrers(original) if isinstance(found, FunctionType)]
            for function in functions:
                function.__code__ = mutant.code
            for item in items:
                self._run(item)
                if self._reports.failed:
                    os._exit(1)
            os._exit(0)
        return _status(pid, SLOWER * sum(self._took_s[item] for item in items) + LEAST_S) != 0


def _is_same(code: CodeType, mutant: Mutant) -> bool:
    there = code.co_firstlineno == mutant.code.co_firstlineno and code.co_qualname == mutant.code.co_qualname
    return there and os.path.realpath(code.co_filename) == str(mutant.path)


def _status(pid: int, within_s: float) -> int:
    """Of the process when it has ended; it is killed when it has used so much CPU."""
    resource.prlimit(pid, resource.RLIMIT_CPU, (int(within_s), int(within_s) + 1))
    _, status = os.waitpid(pid, 0)
    return status


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
