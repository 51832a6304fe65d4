"""Connections to instances: kept alive, found stale, refused, broken, stalled."""

import asyncio

import pytest

from dualmap.router.requests.phase import Phase
from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import MemberState
from tests.router.conftest import CHAT, STREAM, Conversation, Instance, answer_hello, post


async def test_one_connection_to_an_instance_serves_many_requests(fleet):
    async with fleet() as f:
        clients = [await f.client() for _ in range(3)]
        for client in clients * 3:
            assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        assert f.instances[0].connections == 1


@pytest.mark.parametrize("headers", ["connection: close\r\n", "connection: Keep-Alive, Close\r\n"])
async def test_a_connection_that_the_instance_will_close_is_not_used_again(fleet, headers):
    async def answer_and_close(conversation: Conversation) -> None:
        await conversation.send_json({}, headers=headers)
        await conversation.closed_by_gateway()

    async with fleet(answer_and_close) as f:
        client = await f.client()
        for _ in range(3):
            assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        assert f.instances[0].connections == 3


async def test_idle_connections_are_closed_before_the_instance_would(fleet):
    async with fleet(upstream_idle_s=0.02) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        await f.until(lambda: f.instances[0].open_connections == 0)
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200


async def test_a_stale_connection_is_retried_once_on_a_fresh_one(fleet):
    async def close_when_reused(conversation: Conversation) -> None:
        if conversation.request.turn:
            conversation.reset()
        else:
            await answer_hello(conversation)

    async with fleet(close_when_reused) as f:
        client = await f.client()
        for _ in range(3):
            assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        assert f.gateway.scheduler.stats.retries == 0  # not the core's business
        assert f.instances[0].connections == 3
        assert len(f.instances[0].received) == 5


async def test_each_instance_tried_may_have_its_own_stale_connection(fleet):
    async def reset_except_when_alone(conversation: Conversation) -> None:
        if breaking:
            conversation.reset()
        else:
            await answer_hello(conversation)

    breaking = False
    async with fleet(reset_except_when_alone, reset_except_when_alone) as f:
        client = await f.client()
        number = 0
        while not all(instance.received for instance in f.instances):
            number += 1
            messages = [{"role": "user", "content": str(number)}]
            assert (await client.post("/v1/chat/completions", CHAT | {"messages": messages})).status == 200
        received_before = [len(instance.received) for instance in f.instances]
        breaking = True
        assert (await client.post("/v1/chat/completions", CHAT)).status == 503
        attempts = [len(i.received) - before for i, before in zip(f.instances, received_before, strict=True)]
        assert sorted(attempts) == [2, 3]  # the third attempt goes where one has failed, over a fresh connection
        f.check_books_are_empty()


async def test_a_fresh_connection_that_breaks_is_not_tried_again_at_that_instance(fleet):
    async def reset(conversation: Conversation) -> None:
        conversation.reset()

    async with fleet(reset) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert answer.status == 503
        assert answer.error["type"] == "ServiceUnavailableError"
        assert answer.headers["retry-after"] == "1"
        assert len(f.instances[0].received) == SchedulerConfig().max_attempts
        f.check_books_are_empty()


async def test_a_stale_connection_is_not_retried_once_some_of_the_answer_has_come(fleet):
    async def break_when_reused(conversation: Conversation) -> None:
        if conversation.request.turn:
            await conversation.begin_stream()
            await conversation.send_event("{}")
            conversation.reset()
        else:
            await answer_hello(conversation)

    async with fleet(break_when_reused) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        answer = await client.post("/v1/chat/completions", STREAM)
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert b'"error"' in answer.body
        assert len(f.instances[0].received) == 2


async def test_an_instance_that_refuses_connections_is_passed_over(fleet):
    async with fleet(answer_hello, answer_hello) as f:
        f.instances[0].stop()
        client = await f.client()
        for number in range(8):
            body = CHAT | {"messages": [{"role": "user", "content": str(number)}]}
            answer = await client.post("/v1/chat/completions", body)
            assert answer.status == 200
            assert answer.headers["x-dualmap-instance"] == "i1"
        assert f.gateway.scheduler.stats.retries > 0
        f.check_books_are_empty()


@pytest.mark.parametrize("with_body", [True, False])
async def test_a_request_that_an_instance_sheds_is_placed_elsewhere(fleet, with_body):
    shed = 0

    async def shed_first(conversation: Conversation) -> None:
        nonlocal shed
        if shed:
            await answer_hello(conversation)
        elif with_body:
            shed += 1
            await conversation.send_json({"error": "busy"}, "503 Service Unavailable")
        else:
            shed += 1
            await conversation.send(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")

    async with fleet(shed_first, shed_first) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert answer.status == 200
        assert sorted(len(i.received) for i in f.instances) == [1, 1]
        f.check_books_are_empty()


async def test_a_request_that_all_instances_shed_gets_503(fleet):
    async def shed(conversation: Conversation) -> None:
        await conversation.send_json({"error": "busy"}, "503 Service Unavailable")

    async with fleet(shed, shed) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert answer.status == 503
        assert answer.error["message"] == "No instance could take the request."
        assert f.gateway.metrics.outcomes["rejected_attempts_exhausted"] == 1
        f.check_books_are_empty()


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"]
)
async def test_an_instance_that_dies_before_the_first_byte_is_replaced_by_another(fleet, sent):
    died = 0

    async def die_once(conversation: Conversation) -> None:
        nonlocal died
        if died:
            await answer_hello(conversation)
            return
        died += 1
        await conversation.send(sent)
        conversation.reset()

    async with fleet(die_once, die_once) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        assert sorted(len(i.received) for i in f.instances) == [1, 1]
        assert f.gateway.scheduler.stats.retries == 1
        f.check_books_are_empty()


NOT_HTTP = [
    b"SSH-2.0-OpenSSH\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    b"HTTP/1.1 000 OK\r\ncontent-length: 2\r\n\r\nhi",
    b"HTTP/1.1 102 Processing\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nho",
]


@pytest.mark.parametrize("answer", NOT_HTTP)
async def test_an_answer_that_is_not_http_is_a_broken_attempt(fleet, answer):
    async def babble(conversation: Conversation) -> None:
        await conversation.send(answer)
        await conversation.closed_by_gateway()

    async with fleet(babble) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 503
        f.check_books_are_empty()


@pytest.mark.parametrize("cut", [b"", b'27\r\ndata: {"half'])
async def test_a_stream_that_breaks_midway_ends_with_an_error_event_and_the_connection(fleet, cut):
    async def die_midway(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.send_event('{"n":0}')
        await conversation.send(cut)
        conversation.writer.close()

    async with fleet(die_midway) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", STREAM)
        events = answer.body.split(b"\n\n")
        assert events[0] == b'data: {"n":0}'
        assert events[-3].startswith(b'data: {"error":{')
        assert b'"type":"BadGatewayError"' in events[-3]
        assert events[-2:] == [b"data: [DONE]", b""]
        assert await client.at_end()
        assert len(f.instances[0].received) == 1
        assert f.gateway.metrics.outcomes["failed_stream"] == 1
        f.check_books_are_empty()


@pytest.mark.parametrize(
    "head",
    [
        "content-type: audio/mpeg\r\ncontent-length: 10000000",
        "content-type: application/jsonl\r\ntransfer-encoding: chunked",
        "content-type: audio/mpeg\r\ntransfer-encoding: chunked",
    ],
)
async def test_a_plain_answer_relayed_as_it_comes_is_visibly_cut_short_where_it_breaks(fleet, head):
    async def die_midway(conversation: Conversation) -> None:
        await conversation.send(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\n{{".encode())
        await f.until(lambda: any(e.phase is Phase.ANSWERING for e in f.gateway.driver.exchanges.values()))
        conversation.reset()

    async with fleet(die_midway) as f:
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()
        f.check_books_are_empty()


async def test_an_instance_that_says_nothing_gets_the_client_504(fleet):
    async def say_nothing(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    async with fleet(say_nothing, first_byte_timeout_s=0.02) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", CHAT)
        assert answer.status == 504
        assert answer.error["type"] == "GatewayTimeoutError"
        await f.until(lambda: f.instances[0].open_connections == 0)
        assert (await client.get("/health")).status == 200
        f.check_books_are_empty()


async def test_a_stream_that_stalls_midway_ends_with_an_error_event(fleet):
    async def stall(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.send_event('{"n":0}')
        await conversation.closed_by_gateway()

    async with fleet(stall, stall_timeout_s=0.02) as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", STREAM)
        assert b'"code":504' in answer.body
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert await client.at_end()
        f.check_books_are_empty()


async def test_a_connection_that_does_not_come_about_in_time_counts_as_refused(fleet, deaf_port):
    async with fleet(answer_hello, connect_timeout_s=0.02) as f:
        f.apply(f.member(0, endpoint=Endpoint("127.0.0.1", deaf_port), incarnation=2))
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 503
        f.check_books_are_empty()


async def test_a_client_that_leaves_while_its_connection_is_being_opened_frees_the_booking(fleet, deaf_port):
    async with fleet(answer_hello, connect_timeout_s=600.0) as f:
        f.apply(f.member(0, endpoint=Endpoint("127.0.0.1", deaf_port), incarnation=2))
        client = await f.client()
        await client.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: len(f.gateway.driver.exchanges) == 1)
        client.leave()
        await f.until(lambda: not f.gateway.driver.exchanges)
        f.check_books_are_empty()


async def test_more_than_one_answer_to_a_request_is_cut_off_after_the_first(fleet):
    async def answer_twice(conversation: Conversation) -> None:
        one = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst"
        await conversation.send(one + one.replace(b"first", b"other"))
        await conversation.closed_by_gateway()

    async with fleet(answer_twice) as f:
        client = await f.client()
        for _ in range(2):
            assert (await client.post("/v1/chat/completions", CHAT)).body == b"first"
        assert f.instances[0].connections == 2
        f.check_books_are_empty()


async def test_bytes_that_come_unasked_close_the_idle_connection(fleet):
    conversations = []

    async def answer(conversation: Conversation) -> None:
        conversations.append(conversation)
        await answer_hello(conversation)

    async with fleet(answer) as f:
        client = await f.client()
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        await conversations[0].send(b"HTTP/1.1 200 OK\r\n\r\n")
        await f.until(lambda: f.instances[0].open_connections == 0)
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200


async def test_the_streams_of_a_lost_instance_fail_and_its_unstarted_requests_move(fleet):
    started = asyncio.Event()

    async def stream_forever(conversation: Conversation) -> None:
        if conversation.request.json["messages"][0]["content"] == "started":
            await conversation.begin_stream()
            await conversation.send_event("{}")
            started.set()
        await conversation.closed_by_gateway()

    async with fleet(stream_forever) as f:
        one, two = await f.client(), await f.client()
        await one.send(post("/v1/chat/completions", STREAM | {"messages": [{"role": "user", "content": "started"}]}))
        await started.wait()
        await two.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: len(f.instances[0].received) == 2)
        await one.answer_head()
        f.instances.append(await Instance(answer_hello).start())
        f.apply(f.member(0, MemberState.LOST), f.member(1))
        assert await one.chunk() == b"data: {}\n\n"
        assert b'"error"' in await one.chunk()
        answer = await two.answer()
        assert answer.headers["x-dualmap-instance"] == "i1"
        await f.until(lambda: f.instances[0].open_connections == 0)
        f.check_books_are_empty()
