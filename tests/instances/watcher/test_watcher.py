"""watcher.py: many servers in one process, what Fleet hears of them, and what a restarted Watcher goes on with."""

import asyncio
from dataclasses import replace

import pytest

from dualmap.instances.server.start import free_ports
from dualmap.instances.watcher import watched
from dualmap.scheduler.fleet.member import MemberState
from tests.conftest import WAIT_S
from tests.instances.watcher.conftest import SAMPLE, ScriptedServer, Watch, is_ready, new_fleet, spec_of


def test_each_server_is_seen_at_first_and_why_one_is_missing_is_said(told, server):
    async def tell(watch: Watch) -> None:
        (port,) = free_ports("127.0.0.1", 1)
        await watch.watch(spec_of(server.port, "a"), spec_of(port, "b"))
        first = await watch.watcher.first_looks(WAIT_S)
        assert first["a"] == (server.url, True, "")
        assert first["b"] == (f"http://127.0.0.1:{port}", False, "connection refused")

    told(tell)


def test_first_looks_do_not_wait_for_a_server_that_hangs(told, server):
    server.statuses["/v1/models"] = None

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        assert await watch.watcher.first_looks(0.1) == {"i": (server.url, False, "")}

    told(tell)


def test_a_load_that_does_not_change_is_told_by_beats_and_one_that_does_in_full(told, server, monkeypatch):
    monkeypatch.setattr(watched, "SCRAPE_INTERVAL_S", 0.02)

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.until(lambda: any(beat.load_age_s >= 0.0 for beat in watch.beats))
        assert {beat.state for beat in watch.beats if beat.load_age_s >= 0.0} == {MemberState.READY}
        server.metrics = SAMPLE.format(running=2, steps=9, start=5)
        await watch.until(lambda: any(r.signals.load and r.signals.load.running == 2 for r in watch.reports))

    told(tell)


def test_another_fleet_is_told_all(told, server):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.until(lambda: watch.beats)
        watch.away = True
        watch.fleet = new_fleet()
        await asyncio.sleep(0.1)
        watch.members.clear()
        watch.away = False
        await watch.heard(is_ready)
        assert [m.state for m in (await watch.fleet.state()).members] == [MemberState.READY]

    told(tell)


def test_a_restarted_watcher_goes_on_with_the_same_process_and_not_with_another(told, server):
    async def tell(watch: Watch) -> None:
        spec = spec_of(server.port)
        await watch.watch(spec)
        first = await watch.heard(is_ready)
        await watch.watcher.drain("i")
        await watch.restart(spec)
        await watch.watcher.first_looks(WAIT_S)
        assert {(m.incarnation, m.state) for m in watch.members} == {(first.incarnation, MemberState.DRAINING)}
        await watch.watcher.undrain("i")
        server.metrics = SAMPLE.format(running=0, steps=1, start=6)
        await watch.restart(spec)
        second = await watch.heard(lambda member: member.incarnation > first.incarnation)
        assert second.started_at == 6.0
        assert all(map(is_ready, watch.members))

    told(tell)


@pytest.mark.parametrize("settings", [{}, {"behind_balancer": True}], ids=["one", "balanced"])
@pytest.mark.parametrize("metrics", [200, 404])
def test_a_watcher_that_is_restarted_with_fleet_goes_on_as_well(told, server, metrics: int, settings: dict):
    server.statuses["/metrics"] = metrics

    async def tell(watch: Watch) -> None:
        spec = spec_of(server.port, **settings)
        await watch.watch(spec)
        first = await watch.heard(is_ready)
        watch.fleet = new_fleet()
        await watch.restart(spec, known=(first,))
        await watch.watcher.first_looks(WAIT_S)
        assert watch.members
        assert all(member == first for member in watch.members)

    told(tell)


def test_a_restarted_watcher_takes_more_than_a_moment_without_an_answer_for_a_loss(told, server):
    async def tell(watch: Watch) -> None:
        spec = spec_of(server.port)
        await watch.watch(spec)
        first = await watch.heard(is_ready)
        server.statuses["/v1/models"] = 503
        asked = server.asked["/v1/models"]
        watch.beats.clear()
        await watch.restart(spec)
        await watch.until(lambda: server.asked["/v1/models"] > asked)
        del server.statuses["/v1/models"]
        await watch.until(lambda: watch.beats)
        assert {(m.incarnation, m.state) for m in watch.members} == {(first.incarnation, MemberState.READY)}
        server.statuses["/v1/models"] = 503
        await watch.restart(spec)
        await watch.heard(lambda member: member.state is MemberState.STARTING)

    told(tell)


def test_orders_are_for_those_that_are_watched(told, server):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        ready = await watch.heard(is_ready)
        assert await watch.watcher.drain("i")
        drained = watch.members[-1]
        assert drained == replace(ready, state=MemberState.DRAINING, since=drained.since)
        assert await watch.watcher.undrain("i")
        assert is_ready(watch.members[-1])
        assert not await watch.watcher.drain("j")

    told(tell)


def test_a_list_replaces_the_one_before_and_those_that_stay_are_not_disturbed(told, server):
    other = ScriptedServer()

    async def tell(watch: Watch) -> None:
        a, b = spec_of(server.port, "a"), spec_of(other.port, "b")
        await watch.watch(a)
        await watch.heard(is_ready)
        assert await watch.watcher.number() == 1
        await watch.watch(a, b)
        await watch.heard(lambda m: is_ready(m) and m.instance_id == "b")
        await watch.watch(b)
        assert set(await watch.watcher.first_looks(WAIT_S)) == {"b"}
        assert len({m.incarnation for m in watch.in_state(MemberState.READY)}) == 2
        await watch.watcher.watch(2, (a,))  # an older list
        assert set(await watch.watcher.first_looks(WAIT_S)) == {"b"}

    try:
        told(tell)
    finally:
        other.close()


def test_servers_that_hang_hold_up_no_other(told):
    servers = [ScriptedServer() for _ in range(6)]
    for hanging in servers[:3]:
        hanging.statuses |= dict.fromkeys(("/health", "/v1/models", "/metrics"))

    async def tell(watch: Watch) -> None:
        await watch.watch(*(spec_of(server.port, str(number)) for number, server in enumerate(servers)))
        await watch.until(lambda: {m.instance_id for m in watch.in_state(MemberState.READY)} == {"3", "4", "5"})
        watch.beats.clear()
        await watch.until(lambda: {b.instance_id for b in watch.beats if b.load_age_s >= 0.0} == {"3", "4", "5"})

    try:
        told(tell)
    finally:
        for server in servers:
            server.close()
