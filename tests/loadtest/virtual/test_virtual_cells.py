"""Cells in virtual time: conversations, a cell that is lost, slow or joins, and the same outcome each time."""

import random
from collections import Counter, defaultdict
from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest

from dualmap.loadtest.study.simulation import Contender, simulate
from dualmap.loadtest.traces.synth import SynthConfig, synthesise
from dualmap.loadtest.traces.trace import write_trace
from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.virtual.cells import VirtualCells
from dualmap.loadtest.virtual.cluster_run import ClusterRun
from dualmap.loadtest.virtual.cluster_settings import Change, ClusterSettings, InstanceSpec
from dualmap.loadtest.virtual.simulated_workload import Setup
from dualmap.scheduler.config import SchedulerConfig
from tests.loadtest.made import ROUND_PROFILE

CELLS, SIZE = 4, 3
CELL_OF = {f"i{number}": number // SIZE for number in range(CELLS * SIZE)}


def settings(**values: object) -> ClusterSettings:
    specs = [InstanceSpec(instance_id, ROUND_PROFILE) for instance_id in CELL_OF]
    return ClusterSettings(SchedulerConfig(), specs, network_s=0.001, cells=CELLS, **values)


def change_cell(at_s: float, kind: str, cell: int, factor: float = 1.0) -> list[Change]:
    return [Change(at_s, kind, instance_id, factor) for instance_id, its in CELL_OF.items() if its == cell]


def conversations(count: int, turns: int, gap_s: float = 0.05) -> Workload:
    """Three blocks of a system prompt that all share, and two more blocks each turn."""
    rng = random.Random(3)
    starts = [rng.uniform(0.0, count * turns * gap_s / 2) for _ in range(count)]
    found = []
    for session, start_s in enumerate(starts):
        whole = (1, 2, 3, *(1000 * (session + 1) + i for i in range(2 * turns)))
        for turn in range(turns):
            blocks = whole[: 5 + 2 * turn]
            at_s = start_s + turn * count * turns * gap_s / 2 / turns
            found.append(WorkRequest(at_s, len(blocks) * 512 + 100, 20, blocks, session=session))
    found.sort(key=lambda request: request.arrival_s)
    return Workload("conversations", found)


def run(workload: Workload, chosen: ClusterSettings) -> tuple[VirtualCells, ClusterRun]:
    cluster = VirtualCells(workload, chosen)
    return cluster, cluster.run()


def cells_by_session(workload: Workload, done: ClusterRun) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for request, outcome in zip(workload.requests, done.outcomes, strict=True):
        found[request.session].append(CELL_OF[outcome.instance_id])
    return found


def test_conversations_under_one_system_prompt_use_all_cells_and_each_stays_in_its_own() -> None:
    workload = conversations(80, 6)
    cluster, done = run(workload, settings())
    by_session = cells_by_session(workload, done)
    assert all(o.ok for o in done.outcomes)
    assert sum(len(set(cells)) == 1 for cells in by_session.values()) > 0.95 * len(by_session)
    assert len({cells[0] for cells in by_session.values()}) == CELLS
    assert cluster.busiest < 1.6
    assert cluster.requests_by_cell.total() == len(workload.requests)


def test_requests_of_a_lost_cell_are_served_by_others_and_it_is_used_again_when_it_is_back() -> None:
    workload = conversations(80, 6)
    changes = [*change_cell(4.0, "lose", 1), *change_cell(8.0, "join", 1)]
    _, done = run(workload, settings(changes=changes))
    for outcome in done.outcomes:
        assert outcome.ok or not isnan(outcome.first_token_s), "only a stream that has begun may fail"
    served = [(o.arrived_s, CELL_OF[o.instance_id]) for o in done.outcomes]
    assert not [at_s for at_s, cell in served if cell == 1 and 4.1 < at_s < 8.0]
    assert [at_s for at_s, cell in served if cell == 1 and at_s > 8.0]
    around = [o for o in done.outcomes if 3.5 < o.arrived_s < 4.1]
    assert any(o.arrived_s < 4.0 and o.first_token_s > 4.0 and CELL_OF[o.instance_id] != 1 for o in around)


def test_without_any_instance_requests_fail_and_the_run_ends() -> None:
    changes = [change for cell in range(CELLS) for change in change_cell(2.0, "lose", cell)]
    _, done = run(conversations(30, 3), settings(changes=changes))
    assert not [o for o in done.outcomes if o.ok and o.arrived_s > 2.1]
    assert [o for o in done.outcomes if o.ok]


def test_new_conversations_avoid_a_cell_that_proves_slow() -> None:
    workload = conversations(150, 4, gap_s=0.04)
    _, done = run(workload, settings(changes=change_cell(0.0, "slow", 2, 6.0)))
    first = Counter(cells[0] for cells in cells_by_session(workload, done).values())
    assert first[2] < 0.7 * 150 / CELLS


def test_a_cell_that_joins_gets_new_conversations_and_no_others() -> None:
    workload = conversations(120, 5)
    _, done = run(workload, settings(changes=change_cell(7.0, "join", 3)))
    by_session = cells_by_session(workload, done)
    moved = [cells for cells in by_session.values() if 3 in cells and cells[0] != 3]
    assert len(moved) < 0.05 * len(by_session)
    assert [cells for cells in by_session.values() if cells[0] == 3]


def test_two_runs_are_equal_in_every_outcome() -> None:
    changes = [*change_cell(3.0, "slow", 0, 3.0), *change_cell(5.0, "lose", 2), *change_cell(9.0, "join", 2)]
    chosen = settings(changes=changes, digest_s=0.5, digest_delay_s=0.2)
    first, second = (run(conversations(60, 4), chosen)[1] for _ in range(2))
    assert repr(first.outcomes) == repr(second.outcomes)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    path: Path = tmp_path_factory.mktemp("traces") / "chats.jsonl"
    write_trace(path, synthesise(SynthConfig(requests=300, qps=4.0)))
    return Setup(str(path), instances=8, limit=200, warmup=20, cells=2)


def test_a_study_row_says_how_unequal_the_cells_were(setup: Setup) -> None:
    row = simulate(setup, Contender("dualmap"), 6.0)
    assert 1.0 <= row.busiest_cell <= 2.0
    assert row.setup.endswith(", 2 cells")


@pytest.mark.parametrize(
    ("changed", "policy", "rule"),
    [
        ({"cells": 9}, "dualmap", "at most instances=8, not 9"),
        ({"gateways": 2}, "dualmap", "one gateway each"),
        ({"scale": (1, 8)}, "dualmap", "do not scale"),
        ({}, "bound", "the bound has none"),
    ],
)
def test_refuses_what_cells_cannot_be(setup: Setup, changed: dict, policy: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        simulate(replace(setup, **changed), Contender(policy), 6.0)
