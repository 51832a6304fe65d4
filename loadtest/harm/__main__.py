"""Looks for workloads on which a policy does harm.

    python -m dualmap.loadtest.harm --minutes 10 --out runs/harm.jsonl

`--case '{...}'` measures one case, all policies side by side.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dualmap.loadtest.harm.case import Case, case_from, case_of
from dualmap.loadtest.harm.case_log import CaseLog, Quest
from dualmap.loadtest.harm.harm import Evaluate, evaluate
from dualmap.loadtest.harm.harm_table import command, evaluation_lines, search_lines
from dualmap.loadtest.harm.measure import measure
from dualmap.loadtest.harm.search import search
from dualmap.loadtest.harm.simplify import simplified
from dualmap.loadtest.option_lists import policies
from dualmap.router.config.installed_policies import register_installed_policies
from dualmap.router.journal.writer import JournaledScheduler, JournalWriter, path_for
from dualmap.scheduler.core import Scheduler

JOURNAL_REQUESTS = 300  # a journal is to be read, and kept beside a test


def main(argv: Sequence[str] | None = None) -> int:
    """0; 2 with a line on stderr for a file or a value that cannot be used; 130 for a Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        policy, *more = policies(args.policy)
        if more:
            raise ValueError("--policy takes one policy; others are --peers")
        judge = partial(evaluate, policy=policy, peers=tuple(policies(args.peers)) if args.peers else ())
        if args.case:
            return _one(args, policy, judge)
        return _search(args, policy, judge)
    except (ValueError, OSError) as error:
        print(f"dualmap.loadtest.harm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dualmap.loadtest.harm: interrupted; --resume goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dualmap.loadtest.harm", description=__doc__)
    add = parser.add_argument
    add("--policy", default="dualmap", metavar="NAME", help="which is judged (default dualmap)")
    add("--peers", default="", metavar="A,B", help="policies that are measured beside it, and not judged")
    add("--minutes", type=float, default=10.0, metavar="M", help="of computing (default 10); 0: only the table")
    add("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    add("--seed", type=int, default=0, metavar="K", help="of the search (default 0)")
    add("--fix", action="append", default=[], metavar="NAME=VALUE", help="a field of all cases; repeatable")
    add("--out", type=Path, metavar="FILE", help="write each case")
    add("--resume", action="store_true", help="go on with the file of --out")
    add("--worst", type=int, default=15, metavar="N", help="kinds in each part of the table (default 15)")
    add("--check", type=int, default=2, metavar="N", help="other seeds for each of them (default 2)")
    add("--case", metavar="JSON", help="measure this case instead")
    add("--simplify", action="store_true", help="of --case: take fields back to their defaults while the harm stays")
    add("--journal", type=Path, metavar="FILE", help=f"of --case: the events of its first {JOURNAL_REQUESTS} requests")
    return parser


def _search(args: argparse.Namespace, policy: str, judge: Evaluate) -> int:
    if args.jobs < 1 or not args.minutes >= 0:
        raise ValueError("--jobs must be at least 1, and --minutes at least 0")
    quest = Quest(policy, args.seed, _fixed(args.fix))
    log = CaseLog(args.out, quest, resume=args.resume)
    try:
        if args.jobs == 1:
            search(quest, log, judge, args.minutes * 60)
        else:
            context = multiprocessing.get_context("spawn")
            known = register_installed_policies
            with ProcessPoolExecutor(args.jobs, mp_context=context, initializer=known) as pool:
                search(quest, log, judge, args.minutes * 60, pool.map)
    finally:
        log.close()
    for line in search_lines(log.evaluations, args.worst, judge, args.check):
        print(line, flush=True)
    return 0


def _one(args: argparse.Namespace, policy: str, judge: Evaluate) -> int:
    found = judge(case_of(args.case))
    if args.simplify:
        found = simplified(found, judge, lambda step: print(f"{step.harm:7.2f}  {command(step)}", file=sys.stderr))
        print(command(found))
    for line in evaluation_lines(found):
        print(line)
    if args.journal:
        _write_journal(args.journal, replace(found.case, requests=min(found.case.requests, JOURNAL_REQUESTS)), policy)
    return 0


def _write_journal(path: Path, case: Case, policy: str) -> None:
    writers: list[JournalWriter] = []

    def journaled(core: Scheduler) -> JournaledScheduler:
        writers.append(JournalWriter(path if not writers else path_for(path, f"gateway-{len(writers)}"), core.config))
        return JournaledScheduler(core, writers[-1])

    try:
        measure(case, policy, wrap=journaled)
    finally:
        for writer in writers:
            writer.close()
            print(writer.state, file=sys.stderr)


def _fixed(settings: Sequence[str]) -> dict[str, Any]:
    """Raises ValueError."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            values[name] = json.loads(value)
        except ValueError:
            raise ValueError(f"--fix takes NAME=VALUE with a number, not {setting!r}") from None
    case = case_from(values)
    return {name: getattr(case, name) for name in values}


if __name__ == "__main__":
    sys.exit(main())
