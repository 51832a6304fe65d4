"""The gateway as a whole: members, models, readiness, rejections, stopping."""

import asyncio
from dataclasses import replace

import pytest

from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.events import GatewayLoads, InstanceDraining, InstanceJoined, InstanceLoad, InstanceLost
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from dualmap.scheduler.fleet.membership_events import membership_events
from dualmap.scheduler.rebalance import plan_rebalance
from tests.router.conftest import CHAT, STREAM, Conversation, Instance, answer_hello, post

READY, DRAINING, LOST, STARTING = MemberState.READY, MemberState.DRAINING, MemberState.LOST, MemberState.STARTING
CAPACITY = InstanceCapacity()


def member(state, incarnation=1, instance_id="a"):
    return Member(instance_id, incarnation, Endpoint("127.0.0.1", 1), state=state, capacity=CAPACITY)


def joined(incarnation=1):
    return InstanceJoined("a", incarnation, CAPACITY)


CHANGES = [
    (None, READY, [joined()]),
    (None, STARTING, []),
    (None, DRAINING, []),
    (None, LOST, []),
    (STARTING, READY, [joined()]),
    (LOST, READY, [joined()]),
    (READY, READY, []),
    (READY, DRAINING, [InstanceDraining("a", 1)]),
    (READY, LOST, [InstanceLost("a", 1, "lost")]),
    (READY, STARTING, [InstanceLost("a", 1, "starting")]),
    (READY, None, [InstanceLost("a", 1, "removed")]),
    (DRAINING, DRAINING, []),
    (DRAINING, READY, [joined()]),
    (DRAINING, LOST, [InstanceLost("a", 1, "lost")]),
    (DRAINING, None, [InstanceLost("a", 1, "removed")]),
    (LOST, None, []),
]


@pytest.mark.parametrize(("before", "after", "events"), CHANGES)
def test_what_a_change_of_one_member_means_to_the_core(before, after, events):
    old = Membership(1, (member(before),) if before else ())
    new = Membership(2, (member(after),) if after else ())
    assert membership_events(old, new) == events


def test_a_higher_incarnation_replaces_a_lower_one_in_one_event():
    old = Membership(1, (member(READY, 1),))
    assert membership_events(old, Membership(2, (member(READY, 2),))) == [joined(2)]
    assert membership_events(old, Membership(2, (member(STARTING, 2),))) == [InstanceLost("a", 1, "starting")]


def test_a_balancer_that_is_noticed_later_is_told_and_what_is_only_shown_is_not():
    """Then it is not known any more what a cache holds."""
    before = member(READY)
    balanced = replace(before, capacity=replace(CAPACITY, cache_tokens=1))
    assert membership_events(Membership(1, (before,)), Membership(2, (balanced,))) == [
        InstanceJoined("a", 1, balanced.capacity)
    ]
    shown = replace(before, reason="why", since=2.0, started_at=3.0)
    assert membership_events(Membership(1, (before,)), Membership(2, (shown,))) == []


def test_joins_come_before_losses_so_that_requests_find_the_replacement():
    old = Membership(1, (member(READY, instance_id="a"),))
    new = Membership(2, (member(READY, instance_id="b"),))
    assert [type(e) for e in membership_events(old, new)] == [InstanceJoined, InstanceLost]


async def test_a_membership_of_an_epoch_not_above_the_last_is_ignored(fleet):
    async with fleet() as f:
        f.gateway.apply_membership(Membership(1, ()))
        f.gateway.apply_membership(Membership(0, ()))
        assert list(f.gateway.scheduler.instances) == ["i0"]
        f.gateway.apply_membership(Membership(2, ()))
        assert not f.gateway.scheduler.instances


async def test_a_gateway_without_instances_is_alive_but_not_ready(fleet):
    async with fleet() as f:
        client = await f.client()
        assert (await client.get("/ready")).status == 200
        f.apply()
        assert (await client.get("/health")).status == 200
        answer = await client.get("/ready")
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        answer = await client.post("/v1/chat/completions", CHAT)
        assert answer.status == 503
        assert answer.error["message"] == "No instance is ready to serve the request."
        assert answer.headers["retry-after"] == "1"
        f.check_books_are_empty()


async def test_a_draining_instance_finishes_its_stream_and_gets_no_more(fleet):
    release = asyncio.Event()

    async def stream(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.send_event("{}")
        await release.wait()
        await conversation.send_event("[DONE]")
        await conversation.end_stream()

    async with fleet(stream) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", STREAM))
        await client.answer_head()
        f.instances.append(await Instance(answer_hello).start())
        f.apply(f.member(0, DRAINING), f.member(1))
        other = await f.client()
        for _ in range(4):
            answer = await other.post("/v1/chat/completions", CHAT)
            assert answer.headers["x-dualmap-instance"] == "i1"
        release.set()
        assert await client.chunk() == b"data: {}\n\n"
        assert await client.chunk() == b"data: [DONE]\n\n"
        assert await client.chunk() == b""
        f.apply(f.member(1))
        await f.until(lambda: f.instances[0].open_connections == 0)


async def test_an_instance_that_comes_back_elsewhere_is_found_there(fleet):
    async with fleet() as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        f.instances.append(await Instance(answer_hello).start())
        f.apply(f.member(0, endpoint=f.instances[1].endpoint, incarnation=2))
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        assert len(f.instances[1].received) == 1
        await f.until(lambda: f.instances[0].open_connections == 0)


async def test_models_are_those_of_the_members_each_once(fleet):
    async with fleet(
        answer_hello, answer_hello, cards=({"id": "tiny", "object": "model", "max_model_len": 16384},)
    ) as f:
        lora = {"id": "adapter", "object": "model", "parent": "tiny"}
        cards = ({"id": "tiny", "object": "model", "max_model_len": 16384}, lora)
        f.apply(f.member(0, model_cards=cards), f.member(1, model_cards=cards[:1]))
        client = await f.client()
        answer = await client.get("/v1/models")
        assert answer.status == 200
        assert answer.json == {"object": "list", "data": [lora, cards[0]]}


async def test_an_unknown_model_gets_404_as_vllm_words_it(fleet):
    async with fleet(cards=({"id": "tiny"},)) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT | {"model": "gpt-9"})
        assert answer.status == 404
        assert answer.error == {
            "message": "The model `gpt-9` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
        assert not f.instances[0].received


async def test_any_model_is_tried_while_no_member_has_told_its_models(fleet):
    async with fleet() as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT | {"model": "gpt-9"})).status == 200


async def test_a_request_that_finds_the_queue_full_gets_429_with_retry_after(fleet):
    async def never_answer(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(never_answer, config=SchedulerConfig(max_waiting=1)) as f:
        f.apply(f.member(0, incarnation=2, capacity=InstanceCapacity(max_running=1)))
        clients = [await f.client() for _ in range(3)]
        for client in clients[:2]:
            await client.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: len(f.gateway.driver.exchanges) == 2)
        answer = await clients[2].post("/v1/chat/completions", CHAT)
        assert answer.status == 429
        assert answer.error["type"] == "RateLimitError"
        assert int(answer.headers["retry-after"]) >= 1
        assert f.gateway.metrics.outcomes["rejected_queue_full"] == 1


async def test_a_request_that_waits_for_too_long_gets_504(fleet):
    async def never_answer(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(never_answer, config=SchedulerConfig(queue_timeout_s=0.01)) as f:
        f.apply(f.member(0, incarnation=2, capacity=InstanceCapacity(max_running=1)))
        first, second = await f.client(), await f.client()
        await first.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: len(f.gateway.driver.exchanges) == 1)
        answer = await second.post("/v1/chat/completions", CHAT)
        assert (answer.status, answer.error["code"]) == (504, 504)
        assert answer.error["message"] == "The request has waited until its time-out."
        assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_is_answered_504_when_no_token_came_in_the_time_it_gave(fleet, stream):
    async def never_answer(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(never_answer) as f:
        f.apply(f.member(0, incarnation=2, capacity=InstanceCapacity(prefill_tokens_per_s=1.0)))
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT | {"stream": stream}, "x-dualmap-timeout-ms: 20\r\n")
        assert (answer.status, answer.error["type"]) == (504, "GatewayTimeoutError")
        assert answer.error["message"] == "The instance sent no token before the request's time-out."
        assert f.gateway.metrics.outcomes["rejected_first_token_timeout"] == 1
        await f.until(lambda: f.instances[0].open_connections == 0)
        f.check_books_are_empty()


async def test_stopping_lets_running_requests_end_and_refuses_others(fleet):
    release = asyncio.Event()

    async def answer_late(conversation: Conversation) -> None:
        await release.wait()
        await conversation.send_json({"x": "y" * 3_000_000})

    async with fleet(answer_late) as f:
        running, idle, late = [await f.client() for _ in range(3)]
        assert (await idle.get("/health")).status == 200
        await late.send(b"GET /health HTTP/1.1\r\n")
        await running.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: len(f.instances[0].received) == 1)
        stopping = asyncio.create_task(f.gateway.stop(drain_s=10.0))
        assert await idle.at_end()
        await late.send(b"host: x\r\n\r\n")
        assert (await late.answer()).status == 503
        with pytest.raises(ConnectionError):
            await f.client()
        release.set()
        answer = await running.answer()
        assert answer.headers["connection"] == "close"
        assert len(answer.body) > 3_000_000
        await stopping
        assert await running.at_end()
        f.check_books_are_empty()


async def test_what_does_not_end_while_stopping_ends_with_an_error(fleet):
    async def never_answer(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(never_answer) as f:
        f.apply(f.member(0, incarnation=2, capacity=InstanceCapacity(max_running=1)))
        clients = [await f.client() for _ in range(3)]
        for client in clients:
            await client.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: len(f.gateway.driver.exchanges) == len(clients))
        await f.gateway.stop(drain_s=0.02)
        for client in clients:
            answer = await client.answer()
            assert (answer.status, answer.error["message"]) == (503, "The gateway is shutting down.")
            assert await client.at_end()
        await f.until(lambda: f.instances[0].open_connections == 0)
        assert len(f.instances[0].received) == 1
        f.check_books_are_empty()


async def test_waiting_requests_move_by_a_proposed_plan(fleet):
    release = asyncio.Event()

    async def answer_late(conversation: Conversation) -> None:
        await release.wait()
        await answer_hello(conversation)

    capacity = InstanceCapacity(prefill_tokens_per_s=1000.0)
    async with fleet(answer_late, answer_late, config=SchedulerConfig(ttft_slo_s=1.0)) as f:
        f.apply(f.member(0, incarnation=2, capacity=capacity))
        clients = [await f.client() for _ in range(4)]
        for number, client in enumerate(clients):
            body = CHAT | {"messages": [{"role": "user", "content": str(number) * 12_000}]}
            await client.send(post("/v1/chat/completions", body))
        await f.until(lambda: len(f.gateway.driver.exchanges) == 4)
        f.apply(f.member(0, incarnation=2, capacity=capacity), f.member(1, incarnation=2, capacity=capacity))
        snapshot = f.gateway.snapshots()[""]
        moves = tuple(plan_rebalance(snapshot, f.gateway.scheduler.config))
        assert moves
        f.gateway.propose("", moves, snapshot.version)
        assert f.gateway.scheduler.stats.moves_applied == len(moves)
        await f.until(lambda: len(f.instances[1].received) > 0)
        release.set()
        assert {(await client.answer()).status for client in clients} == {200}
        f.check_books_are_empty()


async def test_where_others_answer_a_long_prompt_is_sent_when_they_know_of_it(fleet):
    async with fleet(answer_hello) as f:
        f.apply(f.member(0))
        loads = (InstanceLoad("i0", 0, 0, waiting_tokens=0, kv_tokens=0),)
        said = []

        def others_hear() -> None:
            said.append([load.waiting for load in f.gateway.own_loads()])
            asyncio.get_running_loop().call_soon(f.gateway.hear_others, GatewayLoads(loads, told_s=0.0))

        f.gateway.driver.tell_others = others_hear
        f.gateway.hear_others(GatewayLoads(loads, told_s=0.0))
        client = await f.client()
        long = {**CHAT, "messages": [{"role": "user", "content": "word " * 4000}]}
        assert (await client.post("/v1/chat/completions", long)).status == 200
        assert said[0] == [1]
        f.check_books_are_empty()
