"""How a server that runs on its own is found, lost and found again. Times are shortened."""

import asyncio
import itertools
import json
from typing import Any

import pytest

from dualmap.instances.server.reasons import ANOTHER_PROCESS, BALANCED, refused
from dualmap.instances.server.server_client import ServerClient
from dualmap.instances.watcher import looks, watched
from dualmap.instances.watcher.looks import ASLEEP
from dualmap.scheduler.fleet.member import MemberState
from tests.conftest import WAIT_S
from tests.instances.watcher.conftest import SAMPLE, Watch, is_lost, is_ready, spec_of

TIMEOUTS = {
    "/health": "HEALTH_TIMEOUT_S",
    "/metrics": "SCRAPE_TIMEOUT_S",
    "/v1/completions": "PROBE_TIMEOUT_S",
}
AWAKE = 'vllm:engine_sleep_state{{sleep_state="awake"}} {}\n'
NO_METRICS = {"/metrics": 404}
NESTED = f'{{"data": {"[" * 100_000}{"]" * 100_000}}}'


@pytest.fixture(autouse=True)
def short(monkeypatch):
    for name in ("READY_POLL", "HEALTH_INTERVAL", "SCRAPE_INTERVAL", "METRICS_AGAIN", "MODELS_INTERVAL", "STILL"):
        monkeypatch.setattr(watched, f"{name}_S", 0.02)
    for name in TIMEOUTS.values():
        monkeypatch.setattr(looks, name, WAIT_S)


@pytest.fixture
def hangs(server, monkeypatch):
    """Lets a path of the server hang; only answers of that path are not waited for."""

    def hang(path: str) -> None:
        server.statuses[path] = None
        monkeypatch.setattr(looks, TIMEOUTS[path], 0.05)

    return hang


def test_a_server_with_metrics_is_ready_without_a_made_up_completion(told, server):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        member = await watch.heard(is_ready)
        assert ([card["id"] for card in member.model_cards], member.started_at) == (["m"], 5.0)
        await watch.until(lambda: server.asked["/metrics"] > 10)
        assert server.bodies == []
        assert not watch.in_state(MemberState.LOST)

    told(tell)


def test_a_server_without_metrics_is_asked_for_a_token_once(told, server):
    server.statuses |= NO_METRICS

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        await watch.until(lambda: server.asked["/health"] > 5)
        assert [body["max_tokens"] for body in server.bodies] == [1]

    told(tell)


def test_the_probe_can_be_switched_off(told, server):
    server.statuses |= NO_METRICS | {"/v1/completions": 500}

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port, probe=False))
        await watch.heard(is_ready)
        assert server.bodies == []

    told(tell)


@pytest.mark.parametrize(("status", "alive"), [(200, True), (400, True), (404, True), (503, True), (500, False)])
def test_a_refusal_is_a_sign_of_life_and_an_engine_error_is_not(told, server, status: int, alive: bool):
    server.statuses |= NO_METRICS | {"/v1/completions": status}

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        member = await watch.heard(lambda member: is_ready(member) or member.reason != "")
        assert is_ready(member) is alive
        assert alive or member.reason == "makes no token: /v1/completions answers 500"

    told(tell)


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/v1/models", 503, "503: it loads its model"),
        ("/v1/models", 401, "401: it wants a key (gateway.instance_key_file)"),
        ("/health", 503, "/health answers 503"),
    ],
)
def test_a_server_that_answers_but_cannot_be_used_is_starting(told, server, path: str, status: int, reason: str):
    server.statuses[path] = status

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        member = await watch.heard(lambda member: member.reason != "")
        assert (member.state, member.reason) == (MemberState.STARTING, reason)
        del server.statuses[path]
        ready = await watch.heard(is_ready)
        assert ready.incarnation > member.incarnation
        assert ready.reason == ""

    told(tell)


NO_LISTS = ("ok", "{}", '{"data": []}', '{"data": [{"id": "m"}, 3]}', '{"data": [{"id": null}]}', NESTED)


@pytest.mark.parametrize("models", NO_LISTS, ids=range(len(NO_LISTS)))
def test_a_server_that_answers_everything_with_200_is_told_and_not_flapped_over(told, server, models: str):
    server.models = models

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.until(lambda: server.asked.get("/v1/models", 0) > 5)
        (reason,) = {m.reason for m in watch.members if m.reason}
        assert reason.startswith("answers, but is no vLLM server: /v1/models is no list of models: ")
        assert ", from BaseHTTP/" in reason
        assert {m.state for m in watch.members} == {MemberState.STARTING}

    told(tell)


def test_a_server_that_refuses_its_health_several_times_is_starting_until_it_is_well(told, server):
    server.statuses |= NO_METRICS

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        first = await watch.heard(is_ready)
        server.statuses["/health"] = 503
        lost = await watch.heard(lambda member: member.reason == "/health answers 503")
        assert (lost.state, lost.incarnation) == (MemberState.STARTING, first.incarnation)
        del server.statuses["/health"]
        await watch.heard(lambda member: is_ready(member) and member.incarnation > first.incarnation)

    told(tell)


def test_a_server_that_leaves_all_unanswered_is_lost(told, server, hangs):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        hangs("/metrics")
        hangs("/health")
        assert (await watch.heard(is_lost)).reason == "no answer within 0.05 s"

    told(tell)


def test_a_scrape_that_hangs_is_no_loss_while_the_server_is_well(told, server, hangs):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        hangs("/metrics")
        server.asked.clear()
        await watch.until(lambda: server.asked.get("/health", 0) > 5)
        assert not watch.in_state(MemberState.LOST)

    told(tell)


def test_another_process_at_the_address_is_another_incarnation_and_no_moment_is_lost(told, server):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        first = await watch.heard(is_ready)
        server.metrics = SAMPLE.format(running=0, steps=1, start=6)
        second = await watch.heard(lambda member: is_ready(member) and member.incarnation > first.incarnation)
        assert (second.reason, second.started_at) == (ANOTHER_PROCESS, 6.0)
        assert not watch.in_state(MemberState.LOST)

    told(tell)


def test_a_server_that_is_asleep_is_lost_until_it_wakes(told, server):
    awake = server.metrics

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        first = await watch.heard(is_ready)
        server.metrics = awake + AWAKE.format("0.0")
        assert (await watch.heard(is_lost)).reason == ASLEEP
        server.metrics = awake + AWAKE.format("1.0")
        await watch.heard(lambda member: is_ready(member) and member.incarnation > first.incarnation)

    told(tell)


def test_an_engine_that_stands_still_with_requests_and_makes_no_token_is_lost(told, server, hangs):
    hangs("/v1/completions")
    server.metrics = SAMPLE.format(running=1, steps=7, start=5)

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        lost = await watch.heard(is_lost)
        assert lost.reason == "no token and no step of the engine within 40 s"
        assert server.bodies[0]["model"] == "m"
        asked = len(server.bodies)
        await watch.until(lambda: len(server.bodies) > asked + 1)  # its metrics alone do not make it ready again
        assert watch.members[-1] == lost
        server.statuses.clear()
        await watch.heard(lambda member: is_ready(member) and member.incarnation > lost.incarnation)

    told(tell)


@pytest.mark.parametrize("idle", [True, False])
def test_an_engine_that_idles_or_steps_is_not_asked(told, server, idle: bool, monkeypatch):
    monkeypatch.setattr(watched, "STILL_S", 0.5)
    steps = itertools.count()
    busy = lambda: SAMPLE.format(running=1, steps=next(steps), start=5)  # noqa: E731
    server.metrics = SAMPLE.format(running=0, steps=7, start=5) if idle else busy

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        await watch.until(lambda: server.asked["/metrics"] > 60)
        assert server.bodies == []

    told(tell)


def test_several_servers_behind_one_address_are_noticed_and_served_all_the_time(told, server):
    scrapes = itertools.count()
    server.metrics = lambda: SAMPLE.format(running=0, steps=1, start=5 + 10 * (next(scrapes) % 2))

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        member = await watch.heard(is_ready)
        assert (member.reason, member.capacity.cache_tokens, member.started_at) == (BALANCED, 1, 0.0)
        await watch.until(lambda: server.asked["/metrics"] > 20)
        assert {m.incarnation for m in watch.in_state(MemberState.READY)} == {member.incarnation}
        assert not watch.in_state(MemberState.LOST)
        assert all(report.signals.load is None for report in watch.reports)

    told(tell)


def test_a_balancer_whose_servers_show_later_is_noticed_without_a_new_incarnation(told, server):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        first = await watch.heard(is_ready)
        assert first.reason == ""
        starts = itertools.cycle((6, 5))
        server.metrics = lambda: SAMPLE.format(running=0, steps=1, start=next(starts))
        member = await watch.heard(lambda member: member.reason == BALANCED)
        assert (member.state, member.incarnation) == (MemberState.READY, first.incarnation)
        assert not watch.in_state(MemberState.LOST)

    told(tell)


def test_a_server_that_began_earlier_was_there_before_and_so_a_balancer_is(told, server):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        first = await watch.heard(is_ready)
        server.metrics = SAMPLE.format(running=0, steps=1, start=4)
        member = await watch.heard(lambda member: member.reason == BALANCED)
        assert (member.state, member.incarnation) == (MemberState.READY, first.incarnation)

    told(tell)


@pytest.mark.parametrize("status", [401, 403])
def test_a_ready_server_that_refuses_the_key_again_and_again_is_not_used_until_it_takes_it(told, server, status: int):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        server.statuses["/v1/models"] = status
        member = await watch.heard(lambda member: member.reason != "")
        assert (member.state, member.reason) == (MemberState.STARTING, refused("/v1/models", status))
        watch.members.clear()
        server.statuses.clear()
        await watch.heard(is_ready)

    told(tell)


def test_a_key_that_is_changed_at_the_server_first_is_no_loss(told, server):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        first = await watch.heard(is_ready)
        watch.members.clear()
        server.statuses |= {"/health": 401, "/metrics": 401}
        await watch.until(lambda: server.asked["/health"] > 2 * watched.HEALTH_MISSED + 1)
        server.statuses.clear()
        server.asked.clear()
        await watch.until(lambda: server.asked.get("/metrics", 0) > 2)
        assert all((m.state, m.incarnation) == (MemberState.READY, first.incarnation) for m in watch.members)

    told(tell)


def test_a_declared_balancer_is_asked_for_nothing_more(told, server):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port, behind_balancer=True))
        member = await watch.heard(is_ready)
        assert (member.reason, member.capacity.cache_tokens) == (BALANCED, 1)
        server.metrics = SAMPLE.format(running=3, steps=1, start=6)
        server.asked.clear()
        await watch.until(lambda: server.asked.get("/metrics", 0) > 3)
        assert all(m.incarnation == member.incarnation for m in watch.in_state(MemberState.READY))
        assert all(report.signals.load is None for report in watch.reports)

    told(tell)


def test_models_that_come_later_are_reported(told, server):
    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        first = await watch.heard(is_ready)
        server.models = json.dumps({"data": [{"id": "m"}, {"id": "sql", "parent": "m"}]})
        second = await watch.heard(lambda member: member.adapters == ("sql",))
        assert (second.state, second.incarnation) == (MemberState.READY, first.incarnation)

    told(tell)


def test_an_error_of_ours_ends_no_watch(told, server, monkeypatch, caplog):
    looked = []
    look = watched.Watched.look

    async def wrong(self: watched.Watched) -> None:
        looked.append(self)
        if len(looked) < 3:
            raise KeyError("x")
        await look(self)

    monkeypatch.setattr(watched.Watched, "look", wrong)

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        assert (await watch.heard(is_lost)).reason == "looked at again after an error: KeyError('x')"
        assert len([record for record in caplog.records if record.exc_info]) == 1
        await asyncio.sleep(0)

    told(tell)


def test_an_error_of_ours_beside_it_ends_neither_its_life_nor_the_look_at_its_models(told, server, monkeypatch, caplog):
    asked = []
    ask = watched.ask_models

    async def wrong(client: ServerClient) -> tuple[dict[str, Any], ...]:
        asked.append(client)
        if len(asked) == 2:  # the first of its life
            raise KeyError("x")
        return await ask(client)

    monkeypatch.setattr(watched, "ask_models", wrong)

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        await watch.heard(is_ready)
        server.models = json.dumps({"data": [{"id": "m"}, {"id": "sql", "parent": "m"}]})
        await watch.heard(lambda member: member.adapters == ("sql",))
        assert not watch.in_state(MemberState.LOST)
        assert len([record for record in caplog.records if record.exc_info]) == 1

    told(tell)
