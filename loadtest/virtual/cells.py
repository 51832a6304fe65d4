"""Cells in virtual time: one core each over its own instances, and a CellRouter in front of them.

The way from the front gateway to a cell takes `network_s`. What the front gateway knows of the cells comes each
`digest_s`, late by `digest_delay_s`.
"""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace
from math import nan
from typing import Any

from dualmap.loadtest.traces.workload import Workload
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings
from dualmap.loadtest.virtual.fleet import VirtualFleet
from dualmap.scheduler.cells import CellLoad, CellReason, CellRouter, load_of
from dualmap.scheduler.commands import Command, Reject, RejectReason

# Nothing of such a request has run or can run in the cell; another may take it.
ELSEWHERE = (RejectReason.NO_INSTANCE, RejectReason.QUEUE_FULL, RejectReason.ATTEMPTS_EXHAUSTED)
NONE: frozenset[str] = frozenset()


class VirtualCells(VirtualCluster):
    """settings.cells: each has an equal part of the instances, in their order. requests_by_cell: how many each was
    given, by its number; reasons: why."""

    def __init__(self, workload: Workload, settings: ClusterSettings, **more: Any) -> None:
        super().__init__(workload, replace(settings, gateways=settings.cells), **more)
        count = len(settings.instances)
        self._cell_of = {spec.instance_id: i * settings.cells // count for i, spec in enumerate(settings.instances)}
        config = settings.config
        self.router = CellRouter(key_blocks=config.key_blocks, max_key_blocks=config.max_key_blocks)
        self._chosen: dict[int, int] = {}  # request -> its cell
        self._tried: dict[int, Set[str]] = {}  # request -> cells that refused it
        self.requests_by_cell: Counter[int] = Counter()
        self.reasons: Counter[CellReason] = Counter()

    @property
    def busiest(self) -> float:
        """Requests of the cell that was given the most, against the mean."""
        given = self.requests_by_cell
        return max(given.values()) * self.settings.cells / given.total() if given else nan

    def run(self, **more: Any) -> ClusterRun:
        self.clock.at(0.0, self._begin_hearing)
        return super().run(**more)

    def _deployments(self) -> Sequence[Sequence[int]]:
        """Cells tell each other nothing."""
        return [[number] for number in range(len(self.cores))]

    def _fleet_of(self, instance_id: str) -> VirtualFleet:
        return self._fleets[self._cell_of[instance_id]]

    def _fleet_at(self, gateway: int) -> VirtualFleet:
        return self._fleets[gateway]

    def _gateway_of(self, index: int) -> int:
        return self._chosen[index]

    # The front gateway.

    def _send(self, index: int) -> None:
        blocks, tried = self._prompt_blocks(index), self._tried.get(index, NONE)
        choice = self.router.choose(blocks, str(index), self.clock.now, tried)
        if choice is None:
            self._ended(index, ok=False)
            return
        cell = self._chosen[index] = int(choice.cell)
        self.requests_by_cell[cell] += 1
        self.reasons[choice.reason] += 1
        self.clock.at(self.clock.now + self._delay, super()._send, index)

    def _apply(self, gateway: int, command: Command) -> None:
        if isinstance(command, Reject) and command.reason in ELSEWHERE:
            self.clock.at(self.clock.now + self._delay, self._refused, int(command.request_id), str(gateway))
        else:
            super()._apply(gateway, command)

    def _refused(self, index: int, cell: str) -> None:
        self.router.refused(cell, self.clock.now)
        self._tried[index] = self._tried.get(index, NONE) | {cell}
        self._send(index)

    def _begin_hearing(self) -> None:
        for number, core in enumerate(self.cores):
            self._hear(str(number), load_of(core))
        self._hear_all()

    def _hear_all(self) -> None:
        late_s = self._delay if self.settings.digest_delay_s is None else self.settings.digest_delay_s
        for number, core in enumerate(self.cores):
            load = replace(load_of(core), age_s=late_s)
            self.clock.at(self.clock.now + late_s, self._hear, str(number), load)
        self.clock.at(self.clock.now + self.settings.digest_s, self._hear_all)

    def _hear(self, name: str, load: CellLoad) -> None:
        if not load.instances:
            self.router.leave(name)
        elif name in self.router:
            self.router.report(name, load, self.clock.now)
        else:
            self.router.join(name, load.instances, self.clock.now)
