"""The study of scaling, on a small synthetic trace."""

import re

import pytest

from dualmap.loadtest.experiments.elastic_study import add_arguments, run
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.experiments.resize_runs import KEYS, MAPS, ModuloMap, changed_share, ideal_share
from dualmap.loadtest.traces.synth import SynthConfig, synthesise
from dualmap.loadtest.traces.trace import write_trace
from dualmap.scheduler.dual_ring import DualRing

IDS = [f"i{number}" for number in range(8)]


@pytest.mark.slow
def test_the_tables_name_fleets_and_maps_and_the_page_shows_the_run(tmp_path, capsys):
    trace = tmp_path / "chats.jsonl"
    write_trace(trace, synthesise(SynthConfig(requests=250, qps=2.0)))
    options = ["--qps", "2", "--resize-qps", "2", "--resize-limit", "200", "--max", "4", "--out", str(tmp_path)]
    assert run_as_program(add_arguments, run, [str(trace), *options]) == 0
    said = capsys.readouterr().out
    for name in ("2 to 4 instances", "3 to 4 instances", *(kind.name for kind in MAPS)):
        assert re.search(rf"^{name} .* 0$|^{name} +\d", said, re.MULTILINE), said
    page = (tmp_path / "elastic.html").read_text()
    assert page.count("<svg") == 4
    assert "instance-hours" in page


def test_a_trace_that_cannot_be_read_is_named(tmp_path, capsys):
    assert run_as_program(add_arguments, run, [str(tmp_path / "none.jsonl"), "--out", str(tmp_path)]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_one_more_instance_changes_little_on_rings_and_nearly_all_of_a_modulo_map():
    two = changed_share(IDS, "more", lambda: DualRing(128))
    one = changed_share(IDS, "more", lambda: DualRing(128, dual=False))
    assert abs(two - ideal_share(8, 2)) < 0.05
    assert abs(one - ideal_share(8, 1)) < 0.05
    assert changed_share(IDS, "more", ModuloMap) > 0.9
    assert KEYS >= 10_000
