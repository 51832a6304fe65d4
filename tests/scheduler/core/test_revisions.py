"""Where instances of two revisions serve beside each other, a prompt is read by its own revision alone
(scheduler/core/legs.py)."""

import pytest

from dualmap.scheduler import ServedModel
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.role import Leg, Role

ROLES = {"p": Role.PREFILL, "d": Role.DECODE, "b": Role.BOTH}


@pytest.fixture
def fleet(script):
    """Instances are named by their role, revision and number: p-new-1 prefills. p--1 has no revision."""

    def make(*instance_ids: str, **config):
        core = script(min_prefill_leg_tokens=512, **config)
        for instance_id in instance_ids:
            join(core, instance_id)
        return core

    return make


def join(core, instance_id: str):
    role, revision, _ = instance_id.split("-")
    return core.join(instance_id, role=ROLES[role], revision=revision)


def arrive(core, number: int = 0, **request):
    """A prompt of its own."""
    blocks = tuple(hash_trace_ids([number, *range(3)]))
    return core.arrive(f"r{number}", 2048, blocks=blocks, may_split=True, **request)


def legs(commands) -> list[tuple[Leg, str]]:
    """With role and revision of the instance."""
    return [(c.leg, c.instance_id.rpartition("-")[0]) for c in commands if isinstance(c, Dispatch)]


def test_a_prompt_is_read_by_its_own_revision(fleet):
    core = fleet("p-old-1", "p-new-1", "d-old-1", "d-old-2", "d-new-1")
    seen = set()
    for number in range(12):
        (prefill,) = legs(arrive(core, number))
        core.now += 2.0
        (decode,) = legs(core.prefill_done(f"r{number}"))
        assert decode == (Leg.DECODE, prefill[1].replace("p", "d"))
        core.finish(f"r{number}", 2)
        core.core.check()
        seen.add(prefill[1])
    assert seen == {"p-old", "p-new"}


@pytest.mark.parametrize(
    ("instance_ids", "answers"),
    [
        ("p-new-1 d-old-1", "d-old"),
        ("p--1 d-new-1", "d-new"),
        ("p-old-1 d--1", "d-"),
    ],
)
def test_nothing_is_computed_that_nobody_could_read(fleet, instance_ids, answers):
    assert legs(arrive(fleet(*instance_ids.split()))) == [(Leg.WHOLE, answers)]


def test_those_without_a_revision_are_a_pair(fleet):
    core = fleet("p--1", "p-new-1", "d--1")
    for number in range(6):
        assert legs(arrive(core, number)) == [(Leg.PREFILL, "p-")]
        assert legs(core.prefill_done(f"r{number}")) == [(Leg.DECODE, "d-")]


def test_whole_requests_run_at_any_revision(fleet):
    core = fleet("p-old-1", "d-old-1", "d-new-1")
    seen = {core.arrive(f"short-{number}", 100, may_split=True)[0].instance_id for number in range(4)}
    assert seen == {"d-old-1", "d-new-1"}


def test_a_prompt_that_nobody_can_read_any_more_is_computed_where_it_is_answered(fleet):
    core = fleet("p-old-1", "d-old-1", "d-new-1")
    assert legs(arrive(core)) == [(Leg.PREFILL, "p-old")]
    core.lose("d-old-1")
    assert legs(core.prefill_done("r0")) == [(Leg.WHOLE, "d-new")]
    assert not core.view("p-old-1").booked.lent
    core.core.check()


def held_back(core, instance_id: str) -> None:
    """What comes next waits there."""
    core.arrive("runs", 5000, only=(instance_id,))


def test_what_waits_to_fetch_stays_at_one_that_drains_where_no_other_can_read_it(fleet):
    core = fleet("p-old-1", "d-old-1", "d-new-1")
    held_back(core, "d-old-1")
    arrive(core)
    core.prefill_done("r0")
    assert legs(core.drain("d-old-1")) == []
    assert legs(core.first_token("runs")) == [(Leg.DECODE, "d-old")]
    core.core.check()


def test_what_waits_to_fetch_begins_again_where_the_last_of_its_revision_is_lost(fleet):
    core = fleet("p-old-1", "d-old-1", "d-new-1")
    held_back(core, "d-old-1")
    arrive(core)
    core.prefill_done("r0")
    assert (Leg.WHOLE, "d-new") in legs(core.lose("d-old-1"))
    core.core.check()


def test_idle_instances_of_another_revision_take_no_decode_leg(fleet):
    core = fleet("p-old-1", "d-old-1")
    held_back(core, "d-old-1")
    arrive(core)
    core.prefill_done("r0")
    assert legs(join(core, "d-new-1")) == []
    core.now += 3.0
    assert legs(core.tick()) == []
    assert legs(join(core, "d-old-2")) == []
    core.now += 0.5
    assert legs(core.tick()) in ([], [(Leg.DECODE, "d-old")])
    core.core.check()


def test_a_request_that_a_revision_failed_runs_whole_at_another(fleet):
    core = fleet("p-new-1", "p-old-1", "d-new-1", "d-old-1")
    (prefill,) = legs(arrive(core))
    (decode,) = core.prefill_done("r0")
    (again,) = core.fail("r0", 2, FailureCause.ERROR)
    assert again.leg is Leg.WHOLE
    assert legs([again])[0][1][1:] != prefill[1][1:]
    assert again.instance_id != decode.instance_id


def test_prompts_are_computed_where_they_can_be_read_at_that_length(fleet):
    core = fleet("p-old-1")
    join(core, "p-new-1")
    core.join("d-old-1", role=Role.DECODE, revision="old", models=(ServedModel("chat", 4000),))
    core.join("d-new-1", role=Role.DECODE, revision="new", models=(ServedModel("chat", 2000),))
    for number in range(4):
        assert legs(arrive(core, number, model="chat", length_tokens=3000)) == [(Leg.PREFILL, "p-old")]
        core.prefill_done(f"r{number}")
    core.core.check()
