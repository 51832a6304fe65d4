"""The capacities of a policy in one setup, by runs at rates of the common grid."""

from collections.abc import Callable, Iterable, Sequence

from dualmap.loadtest.study.capacity_search import MISSES_TOLD, CapacitySearch, nearest_place, rate_at
from dualmap.loadtest.study.file import StudyCapacity, StudyRun
from dualmap.loadtest.study.simulation import Contender, simulate
from dualmap.loadtest.virtual.models import load_model
from dualmap.loadtest.virtual.objectives import TTFT_TPOT
from dualmap.loadtest.virtual.simulated_workload import Setup, work_of_request

_OF_IDEAL = 0.85  # what policies reach of the rate at which perfectly cached and balanced instances are busy
_LEAST_S = 1e-4


def guess_qps(setup: Setup) -> float:
    """Where each role is needed, the lesser of what both can do."""
    work = work_of_request(setup)
    if not setup.prefill:
        return _OF_IDEAL * setup.instances / work.total_s
    pace = 1.0
    if setup.objective == TTFT_TPOT:  # so much of each step is left for what grows with the requests in it
        pace = max(1 - load_model(setup.model).profile.step_base_s / setup.tpot_s, 0.1)
    # Some models have prompts or answers for nothing.
    prefill_s, decode_s = (max(part_s, _LEAST_S) for part_s in work[:2])
    return _OF_IDEAL * min(setup.prefill / prefill_s, setup.decode * pace / decode_s)


def find_capacities(
    setup: Setup,
    contender: Contender,
    targets: Sequence[float],
    *,
    guess: float | None = None,
    known: Iterable[StudyRun] = (),
    steps: int = 1,
    on_run: Callable[[StudyRun], None] = lambda run: None,
) -> list[StudyCapacity]:
    """One row a target. known: runs of this contender and setup that were made before; those at rates off the grid are
    left aside. steps: as for CapacitySearch. on_run is told each run made here. Raises ValueError."""
    runs = {nearest_place(run.qps): run for run in known if rate_at(nearest_place(run.qps)) == run.qps}
    give_up_misses = MISSES_TOLD * (1 - min(targets))

    def attainment(qps: float) -> float:
        run = simulate(setup, contender, qps, give_up_misses=give_up_misses)
        runs[nearest_place(qps)] = run
        on_run(run)
        return run.attainment

    search = CapacitySearch(attainment, known={place: run.attainment for place, run in runs.items()}, steps=steps)
    start = guess or guess_qps(setup)
    rows = []
    for target in sorted(targets):
        qps = search.capacity(target, start)
        rows.append(_row(target, qps, list(runs.values())))
        start = qps or start
    return rows


def _row(target: float, qps: float | None, runs: Sequence[StudyRun]) -> StudyCapacity:
    """With the latencies of the run at the highest rate up to the capacity; where there is none, at the nearest."""
    limit = qps or 0.0
    nearest = min(runs, key=lambda run: (not run.complete, run.qps > limit, abs(run.qps - limit)))
    shared = [name for name in StudyCapacity.__struct_fields__ if name not in ("attainment", "qps")]
    return StudyCapacity(
        attainment=target,
        qps=None if qps is None else round(qps, 4),
        **{name: getattr(nearest, name) for name in shared},
    )
