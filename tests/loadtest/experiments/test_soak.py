"""soak.py and virtual_soak.py: what is struck when, and what is counted."""

import argparse
from collections import deque
from dataclasses import dataclass, field

from dualmap.loadtest.experiments import soak
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.virtual_soak import add_arguments, cluster_of, run, table_sizes


def test_parts_are_struck_in_turn_at_their_times(monkeypatch):
    now, hit = [100.0], []
    monkeypatch.setattr(soak.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(soak, "BLOWS", {"a": lambda d: hit.append("a") or 1, "b": lambda d: 0})
    kills = soak.Kills(None, every_s=60.0)
    for now[0] in (159.0, 160.0, 161.0, 221.0, 280.0):
        kills.strike_if_due()
    assert kills.struck == [(60.0, "a"), (121.0, "b, not found"), (180.0, "a")]
    assert hit == ["a", "a"]


@dataclass(slots=True)
class _Inner:
    held: dict[int, int] = field(default_factory=lambda: {1: 1, 2: 2})


class _Outer:
    def __init__(self) -> None:
        self._inner = {"x": _Inner(), "y": _Inner()}
        self.queues = {"a": deque([1, 2, 3]), "b": deque([4])}
        self.back = self


def test_every_table_that_can_be_reached_is_counted_once(monkeypatch):
    monkeypatch.setattr("dualmap.loadtest.experiments.virtual_soak.PACKAGE", __name__)
    outer = _Outer()
    assert table_sizes([outer, outer]) == {
        "_Outer.inner": 2,
        "_Outer.queues": 2,
        "_Outer.queues[]": 4,
        "_Inner.held": 4,
    }


def test_the_books_of_a_core_are_among_what_is_counted():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    cluster, _ = cluster_of(parser.parse_args(["--instances", "1"]), 60.0)
    cluster.run()
    sizes = table_sizes(cluster.kept())
    assert {"Books.ended", "CacheView.held", "Holders.masks", "PrefixKeys.window", "FleetCore.members"} <= sizes.keys()
    views = [view for core in cluster.cores for view in core.instances.values()]
    assert sizes["CacheView.held"] == sum(len(view.cache) for view in views) > 0


def test_a_run_counts_and_says_what_came_of_it(tmp_path, capsys):
    options = ["--hours", "0.01", "--instances", "1", "--kill-every", "1000", "--out", str(tmp_path)]
    assert run_as_program(add_arguments, run, options) in (0, 1)  # a minute tells nothing of a slope
    said = capsys.readouterr().out
    assert " 0 failed or under way." in said
    assert "| CacheView.held |" in said
    assert (tmp_path / "virtual-soak.html").read_text().count("<svg") > 20
