"""Requests with LoRA adapters: where they can run, and where they rather do. A token is a millisecond."""

import pytest

from dualmap.scheduler.commands import Reject, RejectReason
from dualmap.scheduler.events import LoadReported
from dualmap.scheduler.instance.adapters import Adapters

LOAD_S = 0.2  # adapter_load_s


def test_the_adapter_not_used_for_longest_goes_first():
    adapters = Adapters(("a", "b", "c"), 2)
    for name in ("a", "b", "a", "c"):
        adapters.use(name)
    assert [adapters.is_loaded(name) for name in ("a", "b", "c", "")] == [True, False, True, True]


def test_an_adapter_that_is_gone_is_not_loaded():
    adapters = Adapters(("a",), 1)
    assert adapters.loaded == ("a",)
    adapters.set_able(("b",))
    assert not adapters.is_loaded("a")


def adapted_core(script, **config):
    """a and b have sql, c does not."""
    core = script(**config)
    core.join("a", adapters=("sql",))
    core.join("b", adapters=("sql",))
    core.join("c")
    return core


def test_a_request_goes_only_where_its_adapter_is(script):
    core = adapted_core(script)
    for i in range(30):
        (dispatch,) = core.arrive(f"r{i}", 100, blocks=core.prompt("c", other_than=i), adapter="sql")
        assert dispatch.instance_id in ("a", "b")
        core.finish(f"r{i}")


def test_without_an_instance_that_has_it_a_request_is_told_so(script):
    core = script("a")
    (reject,) = core.arrive("r", adapter="sql")
    assert isinstance(reject, Reject)
    assert reject.reason is RejectReason.NO_INSTANCE


def test_where_the_adapter_is_loaded_the_request_is_sooner(script):
    core = script("c")
    core.join("a", adapters=("sql",))
    core.join("b", adapters=("sql", "poems"))  # one is loaded at once: the last
    for i in range(10):
        (dispatch,) = core.arrive(f"r{i}", 100, blocks=core.prompt("b", "a", other_than=i), adapter="sql")
        assert dispatch.instance_id == "a"
        assert dispatch.estimated_ttft_s == pytest.approx(0.1)
        core.first_token(f"r{i}")
        core.finish(f"r{i}")


def test_an_adapter_that_must_be_loaded_is_in_the_estimate(script):
    core = script()
    core.join("a", adapters=("sql", "poems"))
    estimates = []
    for number, adapter in enumerate(("poems", "sql", "sql")):
        (dispatch,) = core.arrive(f"r{number}", 100, adapter=adapter)
        estimates.append(dispatch.estimated_ttft_s)
        core.first_token(f"r{number}")
        core.finish(f"r{number}")
    assert estimates == pytest.approx([0.1, 0.1 + LOAD_S, 0.1])


def test_what_an_instance_says_that_it_runs_is_loaded(script):
    core = script()
    core.join("b", adapters=("sql", "poems"))
    assert not core.view("b").adapters.is_loaded("sql")
    core.send(LoadReported("b", 1, 0, kv_used=0.0, age_s=0.0, adapters=("sql",)))
    assert core.view("b").adapters.is_loaded("sql")


def test_what_waits_is_neither_taken_nor_moved_to_where_it_cannot_run(script):
    core = script(recompute_price_idle=0.0, recompute_price_busy=0.0)
    core.join("a", adapters=("sql",))
    core.join("c")
    for i in range(4):
        core.arrive(f"r{i}", 3000, adapter="sql", ttft_slo_s=1000.0)
    assert core.books("a")[:2] == (3, 1)
    assert core.tick(1.0) == []
    assert core.move("r3", "a", "c") == []
    assert core.core.stats.moves_refused == 1
    core.arrive("base", 3000, blocks=core.prompt("a", "c"))
    assert core.attempt("base").instance_id == "c"


def test_a_draining_instance_keeps_what_nobody_else_can_run(script):
    core = script()
    core.join("a", adapters=("sql",))
    core.join("c")
    for i in range(3):
        core.arrive(f"r{i}", 3000, adapter="sql", ttft_slo_s=1000.0)
    assert core.drain("a") == []
    dispatched = [command.request_id for i in range(2) for command in core.first_token(f"r{i}")]
    assert dispatched == ["r1", "r2"]


def test_adapters_can_come_and_go_while_an_instance_runs(script):
    core = script("a")
    core.arrive("r", adapter="sql")
    version = core.core.version
    core.join("a", adapters=("sql",))
    assert core.core.version == version + 1
    (dispatch,) = core.arrive("again", adapter="sql")
    assert dispatch.instance_id == "a"
    core.join("a", adapters=("sql",))
    assert core.core.stats.late_events == 1
