"""`dualmap simulate`: policies over a trace in virtual time, the production scheduler in front of simulated engines."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dualmap.loadtest.cli.simulate_arguments import (
    EXAMPLES,
    add_arguments,
    check_above_0,
    check_least,
    setup_of,
)

if TYPE_CHECKING:
    from dualmap.loadtest.study.log import StudyLog
    from dualmap.loadtest.study.simulation_jobs import Job
    from dualmap.scheduler.core import Scheduler

__all__ = ["EXAMPLES", "add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """0; 1 if something broke; 2 with a line on stderr for a file or a value that cannot be used; 130 for a Ctrl-C."""
    from dualmap.loadtest.study.log import StudyLog
    from dualmap.loadtest.study.workers import JobError

    try:
        jobs = _jobs(args)
        if args.journal:
            return _with_journal(args.journal, jobs)
        with StudyLog(args.out, resume=args.resume) as log:
            code = _work_off(jobs, log, args.jobs)
            _print_table(log, jobs)
            return code
    except (ValueError, OSError) as error:
        print(f"dualmap simulate: {error}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"dualmap simulate: {error}", file=sys.stderr)
        return 1


def _jobs(args: argparse.Namespace) -> "list[Job]":
    """Everything is looked at before anything runs. Raises ValueError."""
    from dualmap.loadtest.option_lists import numbers, policies, span, whole_numbers
    from dualmap.loadtest.study.simulation import Contender, cluster_settings
    from dualmap.loadtest.study.simulation_jobs import CapacityJob, RateJob
    from dualmap.loadtest.study.tables import BOUND
    from dualmap.loadtest.virtual.simulated_workload import workload_of
    from dualmap.scheduler.config_text import read_settings

    if args.resume and args.out is None:
        raise ValueError("--resume needs the file, --out")
    check_least(args, 1, "seeds", "limit", "gateways", "cells", "jobs")
    check_least(args, 0, "warmup", "cpu_cache_tokens", "max_num_batched_tokens")
    check_above_0(args, "start_s", "cpu_load_tokens_per_s")
    asked = setup_of(args)
    if args.scale and args.capacity:
        raise ValueError("--scale is for --qps: what a cluster that grows can do, one of its largest size can")
    scale = span(args.scale, "--scale") if args.scale else None
    prefill, decode = _roles(args)
    contenders = policies(args.policy) + ([BOUND] if args.bound else [])
    overrides = tuple(sorted(read_settings(args.set, fixed=("policy", "ttft_slo_s")).items()))
    rates = () if args.capacity else numbers(args.qps, "--qps", 0)
    targets = numbers(args.attainment, "--attainment", 0, 1)
    jobs: list[Job] = []
    sizes = (scale[1],) if scale else whole_numbers(args.instances, "--instances")
    split = (prefill[1] or prefill[0]) + (decode[1] or decode[0])
    for instances in (split,) if split else sizes:
        setup = replace(
            asked,
            instances=instances,
            prefill=prefill[0],
            decode=decode[0],
            most_prefill=prefill[1],
            most_decode=decode[1],
            change_roles=args.change_roles,
            step_tokens=args.max_num_batched_tokens,
            disturbance=args.disturbance,
            gateways=args.gateways,
            cells=args.cells,
            limit=args.limit,
            warmup=args.warmup,
            scale=scale,
            start_s=args.start_s,
            cpu_cache_tokens=args.cpu_cache_tokens,
            cpu_load_tokens_per_s=args.cpu_load_tokens_per_s,
            cpu_cache_shared=args.cpu_cache_shared,
            kv_events=args.kv_events,
        )
        workload = workload_of(setup, rates[0] if rates else float(instances), 0)
        if len(workload.requests) <= setup.warmup_requests:
            raise ValueError(
                f"--warmup must be below the number of requests, {len(workload.requests)}, not {setup.warmup_requests}"
            )
        for policy in contenders:
            for seed in range(args.seeds):
                contender = Contender(policy, seed, overrides)
                cluster_settings(setup, contender, workload)
                jobs.append(
                    CapacityJob(setup, contender, targets) if args.capacity else RateJob(setup, contender, rates)
                )
    return jobs


def _roles(args: argparse.Namespace) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of those that prefill, and of those that decode: how many at first, and the most, which is 0 where the number
    stays; 0 of all where each instance does both. Raises ValueError."""
    given = {name: value for name in ("prefill", "decode") if (value := getattr(args, name)) is not None}
    if not given:
        if args.change_roles:
            raise ValueError("--change-roles is for instances with roles: --prefill and --decode say how many at first")
        return (0, 0), (0, 0)
    found = " ".join(f"--{name} {value}" for name, value in given.items())
    numbers = [_role_numbers(value, f"--{name}") for name, value in given.items()]
    if len(numbers) < 2 or min(numbers)[0] < 1:
        raise ValueError(f"--prefill and --decode go together, with at least one instance each, not {found}")
    for name, bad in (("bound", args.bound), ("cells", args.cells > 1), ("scale", args.scale)):
        if bad:
            raise ValueError(f"--{name} is for instances that each do both: leave out --prefill and --decode")
    prefill, decode = numbers
    scaled = prefill[1] > 0
    if scaled is not (decode[1] > 0) or (scaled and args.change_roles):
        raise ValueError(f"both are numbers, with --change-roles or without, or both are MIN-MAX, not {found}")
    if args.capacity and (scaled or args.change_roles):
        raise ValueError(
            "--capacity is for instances that nothing scales: --prefill N --decode N, without --change-roles"
        )
    return prefill, decode


def _role_numbers(text: str, option: str) -> tuple[int, int]:
    """How many at first, and the most; 0 for what is no number. Raises ValueError."""
    from dualmap.loadtest.option_lists import span

    if "-" in text.removeprefix("-"):
        return span(text, option)
    return int(text) if text.isdecimal() else 0, 0


def _work_off(jobs: "Sequence[Job]", log: "StudyLog", processes: int) -> int:
    from dualmap.loadtest.study.work_off import work_off

    try:
        work_off(jobs, log, processes)
    except KeyboardInterrupt:
        kept = f"; what was finished is in {log.path}" if log.path else ""
        print(f"dualmap simulate: interrupted{kept}", file=sys.stderr)
        return 130
    return 0


def _print_table(log: "StudyLog", jobs: "Sequence[Job]") -> None:
    from dualmap.loadtest.cli.simulate_table import capacity_table, plan_lines, run_table
    from dualmap.loadtest.study.log import contender_key
    from dualmap.loadtest.study.simulation_jobs import CapacityJob, job_key

    keys = {job_key(job) for job in jobs}
    if isinstance(jobs[0], CapacityJob):
        targets = jobs[0].targets
        found = [c for c in log.study.capacities if contender_key(c) in keys and c.attainment in targets]
        lines = capacity_table(found) if found else []
    else:
        rates = jobs[0].rates
        runs = [r for r in log.study.runs if contender_key(r) in keys and r.qps in rates]
        lines = run_table(runs)
        if len(runs) == 1:
            lines += plan_lines(runs[0])
    for line in lines:
        print(line)


def _with_journal(path: Path, jobs: "Sequence[Job]") -> int:
    """One run, whose scheduler's events are written. Raises ValueError, OSError."""
    from dualmap.loadtest.cli.simulate_table import run_table
    from dualmap.loadtest.study.simulation import simulate
    from dualmap.loadtest.study.simulation_jobs import RateJob
    from dualmap.router.journal.writer import JournaledScheduler, JournalWriter, path_for

    if len(jobs) != 1 or not isinstance(jobs[0], RateJob) or len(jobs[0].rates) != 1:
        raise ValueError("--journal is for a single run: one policy, one size, one --qps, one seed")
    job = jobs[0]
    writers: list[JournalWriter] = []

    def journaled(core: "Scheduler") -> JournaledScheduler:
        writers.append(JournalWriter(path if not writers else path_for(path, f"gateway-{len(writers)}"), core.config))
        return JournaledScheduler(core, writers[-1])

    try:
        row = simulate(job.setup, job.contender, job.rates[0], wrap=journaled)
    finally:
        for writer in writers:
            writer.close()
    for line in run_table([row]):
        print(line)
    for writer in writers:
        print(writer.state, file=sys.stderr)
    return 0
