"""Settings that change while the core runs."""

from dataclasses import asdict, fields, replace

from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.commands import Dispatch, Reject
from dualmap.scheduler.config import LIVE_SETTINGS
from dualmap.scheduler.events import SettingsChanged


def test_every_live_setting_is_taken_over_and_no_other(script):
    core = script("a").core
    before = replace(core.config, cold_start_timeout_s=8.0, min_prefill_leg_tokens=512)
    core.handle(SettingsChanged(before), 100.0)
    other = replace(
        before,
        **{
            field.name: not value
            if isinstance(value, bool)
            else value / 2 or 1.0
            if isinstance(value, float)
            else (*value, "cpu")
            if isinstance(value, tuple)
            else value + 1
            for field in fields(SchedulerConfig)
            if not isinstance(value := getattr(before, field.name), str)
        },
    )
    core.handle(SettingsChanged(other), 100.0)
    differs = {name for name, value in asdict(core.config).items() if value != getattr(before, name)}
    assert differs == set(LIVE_SETTINGS)
    assert core.policy.config is core.config


def test_a_new_objective_holds_for_the_next_request(script):
    core = script("a")
    core.arrive("r1", 2000)
    core.send(SettingsChanged(replace(core.core.config, ttft_slo_s=1.0)))
    core.arrive("r2", 100)
    assert [core.attempt(r).deadline_s - core.attempt(r).arrived_at for r in ("r1", "r2")] == [5.0, 1.0]


def test_a_shorter_queue_turns_away_what_comes_then(script):
    core = script("a", capacity={"max_running": 1})
    assert isinstance(core.arrive("r1", 100)[0], Dispatch)
    assert core.arrive("r2", 100) == []
    core.send(SettingsChanged(replace(core.core.config, max_waiting=1)))
    (rejected,) = core.arrive("r3", 100)
    assert isinstance(rejected, Reject)
