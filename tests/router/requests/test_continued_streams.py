"""Streams whose instance fails them in mid-answer: another one goes on, and the client sees one answer."""

import asyncio
from typing import Any

import pytest

from dualmap.router.observe.metrics import Continuation
from dualmap.router.requests import answer_rest
from dualmap.scheduler.events import FailureCause
from tests.router.conftest import STREAM, Conversation, post, replace_method
from tests.router.requests.numbered_stream import (
    CARDS,
    COMMENT,
    FIRST_ID,
    ON,
    PROMPT,
    WAYS,
    Numbered,
    aborts,
    ask,
    dies,
    events,
    fails,
    hangs,
    last_error,
    spelled,
    text,
    undisturbed,
    whole_text,
)


@pytest.mark.parametrize("act", [dies, aborts, fails, hangs])
@pytest.mark.parametrize("at", [1, 5, 11])
@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_goes_on_elsewhere_as_if_nothing_had_happened(fleet, way, at, act):
    path, body = WAYS[way]
    numbered = Numbered()
    numbered.fail_at[0] = (at, act)
    expected = await undisturbed(fleet, path, body)
    async with fleet(numbered, numbered, about=ON, cards=CARDS, stall_timeout_s=0.05) as f:
        answer = await ask(await f.client(), path, body, numbered)
        assert answer.body == expected.body
        assert text(answer) == whole_text(12)
        assert numbered.asked[1]["prompt"] == [*PROMPT, *range(FIRST_ID, FIRST_ID + at)]
        assert [len(instance.received) for instance in f.instances] == [1, 1]
        cause = {dies: "broken", aborts: "aborted", fails: "aborted", hangs: "stalled"}[act]
        assert f.gateway.metrics.continuations == {(FailureCause(cause), Continuation.WENT_ON): 1}
        assert f.gateway.metrics.outcomes["ok"] == 1
        stats = f.gateway.scheduler.stats
        assert (stats.arrived, stats.slo_kept, stats.slo_missed) == (1, 1, 0)
        f.check_books_are_empty()


@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}])
@pytest.mark.parametrize("way", WAYS)
async def test_usage_is_that_of_the_whole_answer(fleet, way, options):
    path, body = WAYS[way]
    body = body | {"stream_options": options}
    numbered = Numbered()
    numbered.fail_at[0] = (5, dies)
    expected = await undisturbed(fleet, path, body)
    async with fleet(numbered, numbered, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), path, body, numbered)
        assert answer.body == expected.body
        assert events(answer)[-1]["usage"] == {"prompt_tokens": 3, "total_tokens": 15, "completion_tokens": 12}
        assert (f.gateway.metrics.output_tokens, f.gateway.metrics.prompt_tokens) == (12, 3)


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_that_is_lost_twice_goes_on_twice_and_no_more(fleet, way):
    path, body = WAYS[way]
    numbered = Numbered()
    numbered.fail_at = {0: (3, dies), 1: (3, dies)}
    expected = await undisturbed(fleet, path, body)
    async with fleet(*[numbered] * 3, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), path, body, numbered)
        assert answer.body == expected.body
        assert [len(asked["prompt"]) for asked in numbered.asked[1:]] == [6, 9]
        assert [len(instance.received) for instance in f.instances] == [1, 1, 1], "not where it had failed"
    again = Numbered()
    again.fail_at = {0: (3, dies), 1: (3, dies), 2: (3, dies)}
    async with fleet(*[again] * 3, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), path, body, again)
        assert "it has gone on 2 times already" in last_error(answer)["message"]
        assert text(answer) == whole_text(9)
        assert f.gateway.metrics.outcomes["failed_stream"] == 1
        f.check_books_are_empty()


async def test_a_rest_that_fails_before_its_first_token_is_tried_elsewhere(fleet):
    numbered = Numbered()
    numbered.fail_at = {0: (3, dies), 1: (0, dies)}
    expected = await undisturbed(fleet, *WAYS["chat"])
    async with fleet(*[numbered] * 3, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), *WAYS["chat"], numbered)
        assert answer.body == expected.body
        assert [len(asked["prompt"]) for asked in numbered.asked[1:]] == [6, 6]
        assert f.gateway.scheduler.stats.retries == 1
        f.check_books_are_empty()


async def test_where_each_instance_fails_the_rest_the_client_is_told(fleet):
    numbered = Numbered()
    numbered.fail_at = {place: (3 if place == 0 else 0, dies) for place in range(9)}
    async with fleet(*[numbered] * 2, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), *WAYS["chat"], numbered)
        assert "none could take what is left of it" in last_error(answer)["message"]
        assert len(numbered.asked) == 1 + f.gateway.scheduler.config.max_attempts
        assert f.gateway.metrics.continuations == {(FailureCause.BROKEN, Continuation.FAILED): 1}
        f.check_books_are_empty()


async def test_where_no_instance_is_left_the_client_is_told(fleet):
    numbered = Numbered()
    numbered.fail_at[0] = (3, hangs)
    async with fleet(numbered, about=ON, cards=CARDS) as f:
        client = await f.client()
        await client.send(post(*WAYS["completions"]))
        await client.answer_head()
        body = b""
        while b" t2" not in body:
            body += await client.chunk()
        f.apply()
        while chunk := await client.chunk():
            body += chunk
        assert b"No other one can go on with the answer: none could take what is left of it." in body
        assert f.gateway.metrics.continuations == {(FailureCause.INSTANCE_LOST, Continuation.NO_ROOM): 1}
        f.check_books_are_empty()


async def test_an_instance_that_leaves_the_membership_is_gone_on_from(fleet):
    numbered = Numbered()
    numbered.fail_at[0] = (3, hangs)
    expected = await undisturbed(fleet, *WAYS["chat"])
    async with fleet(numbered, numbered, about=ON, cards=CARDS) as f:
        client = await f.client()
        await client.send(post(*WAYS["chat"]))
        answer = await client.answer_head()
        body = b""
        while b" t2" not in body:
            body += await client.chunk()
        place = int(answer.headers["x-dualmap-instance"][1:])
        f.apply(f.member(1 - place, model_cards=CARDS))
        while chunk := await client.chunk():
            body += chunk
        assert body == expected.body
        f.check_books_are_empty()


E_ACUTE, SUN = "é".encode(), "日".encode()


@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("per_chunk", [1, 2, 3])
async def test_a_character_of_several_tokens_comes_whole(fleet, at, per_chunk):
    numbered = Numbered(9)
    numbered.per_chunk = per_chunk
    numbered.token_bytes = {1: E_ACUTE[:1], 2: E_ACUTE[1:], 4: SUN[:1], 5: SUN[1:2], 6: SUN[2:] + b"x" + E_ACUTE[:1]}
    numbered.token_bytes[7] = E_ACUTE[1:]
    numbered.fail_at[0] = (at, dies)
    async with fleet(numbered, numbered, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), *WAYS["chat"], numbered)
        assert text(answer) == " t0é t3日xé t8"
        assert f.gateway.metrics.outcomes["ok"] == 1
        if per_chunk == 1:
            assert numbered.detokenized == 0, "where each token comes alone, nobody is asked"


STOPS = {
    "within the rest": ("t9", False),
    "across the cut": ("t4 t5 t6", False),
    "several": (["nothing of it", "5 t6 t", "t7"], False),
    "never": ("nothing of it at all", False),
    "with itself": ("t4 t5 t6", True),
    "soon, with itself": (["3 ", "t9"], True),
}


@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("stop", "included"), STOPS.values(), ids=STOPS)
async def test_a_stop_string_is_found_wherever_the_answer_is_cut(fleet, way, stop, included, at):
    path, body = WAYS[way]
    body = body | {"stop": stop, "include_stop_str_in_output": included, "stream_options": {"include_usage": True}}
    numbered = Numbered()
    numbered.fail_at[0] = (at, dies)
    expected = events(await undisturbed(fleet, path, body))
    async with fleet(numbered, numbered, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), path, body, numbered)
        assert text(answer) == "".join(
            c["delta"]["content"] if "delta" in c else c["text"] for e in expected for c in e["choices"]
        )
        assert events(answer)[-2:] == expected[-2:]
        await f.until(lambda: not any(i.open_connections > 1 for i in f.instances))
        f.check_books_are_empty()


TOOL = {"type": "function", "function": {"name": "f"}}
HINDRANCES = {
    "several choices": ({"n": 2}, "several choices"),
    "log probabilities": ({"logprobs": True}, "log probabilities"),
    "a schema": ({"response_format": {"type": "json_object"}}, "structured"),
    "a grammar": ({"structured_outputs": {"regex": "a+"}}, "structured"),
    "tools and a grammar": ({"tools": [TOOL], "parallel_tool_calls": False}, "call tools"),
    "tools and stop strings": ({"tools": [TOOL], "stop": "x"}, "call tools"),
    "a strict tool": ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "call tools"),
    "penalties": ({"presence_penalty": 0.5}, "penalties"),
    "a budget": ({"thinking_token_budget": 9}, "reasoning"),
    "stop strings after a least length": ({"stop": "x", "min_tokens": 3}, "stop strings"),
}


@pytest.mark.parametrize(("fields", "why"), HINDRANCES.values(), ids=HINDRANCES)
async def test_what_cannot_go_on_exactly_ends_at_once_and_says_why(fleet, fields, why):
    numbered = Numbered()
    numbered.fail_at[0] = (3, dies)
    async with fleet(numbered, numbered, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), "/v1/chat/completions", STREAM | fields, numbered)
        message = last_error(answer)["message"]
        assert message.startswith("The instance failed before its answer was complete.")
        if "n" not in fields:  # of which no ids were asked for
            assert why in message
            assert f.gateway.metrics.continuations == {(FailureCause.BROKEN, Continuation.NOT_EXACT): 1}
        assert len(numbered.asked) == 1
        f.check_books_are_empty()


SAME = {
    "greedy with a seed": {"seed": 1, "temperature": 0},
    "text, no tool": {"response_format": {"type": "text"}, "tools": [{"type": "function"}], "tool_choice": "none"},
    "no penalty": {"presence_penalty": 0, "frequency_penalty": 0.0},
    "no log probabilities": {"logprobs": False, "top_logprobs": 0},
}


@pytest.mark.parametrize("fields", SAME.values(), ids=SAME)
async def test_what_depends_on_tokens_alone_goes_on(fleet, fields):
    numbered = Numbered()
    numbered.fail_at[0] = (3, dies)
    asked = STREAM | fields | {"max_completion_tokens": 10, "logit_bias": {"7": 1.5}, "min_tokens": 4, "top_k": 3}
    async with fleet(numbered, numbered, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), "/v1/chat/completions", asked, numbered)
        assert text(answer) == whole_text(10)
        assert events(answer)[-1]["choices"][0]["finish_reason"] == "length"
        rest = numbered.asked[1]
        assert (rest["max_tokens"], rest["min_tokens"], rest["logit_bias"], rest["top_k"]) == (7, 1, {"7": 1.5}, 3)
        assert not {"messages", "logprobs", "tools", "tool_choice", "response_format"} & rest.keys()
        assert rest["model"] == "tiny"


async def test_a_prompt_that_is_let_go_is_not_needed(fleet):
    numbered = Numbered()
    numbered.fail_at[0] = (3, dies)
    large = STREAM | {"messages": [{"role": "user", "content": "x" * 100_000}], "temperature": 0.5}
    async with fleet(numbered, numbered, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), "/v1/chat/completions", large, numbered)
        assert text(answer) == whole_text(12)
        assert numbered.asked[1]["temperature"] == 0.5


async def test_tools_that_may_not_be_called_are_no_hindrance_however_many_and_often(fleet):
    numbered = Numbered()
    numbered.fail_at = {0: (3, dies), 1: (3, dies)}
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 100_000}}
    body = STREAM | {"tools": [tool], "tool_choice": "none"}
    async with fleet(*[numbered] * 3, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), "/v1/chat/completions", body, numbered)
        assert text(answer) == whole_text(12)


async def test_while_a_stream_waits_to_go_on_its_client_gets_comments(fleet):
    numbered = Numbered()
    numbered.fail_at = {0: (3, dies), 1: (0, hangs)}
    async with fleet(numbered, numbered, about=ON | {"heartbeat_s": 0.01}, cards=CARDS) as f:
        client = await f.client()
        await client.send(post(*WAYS["chat"]))
        await client.answer_head()
        body = b""
        while body.replace(COMMENT, b"").count(b"\n\n") < 4 or not body.endswith(COMMENT):
            body += await client.chunk()
        client.leave()
        await f.until(lambda: not f.gateway.driver.exchanges)
        f.check_books_are_empty()


async def test_a_client_who_takes_nothing_is_sent_no_comments(fleet):
    numbered = Numbered()
    numbered.fail_at = {0: (3, dies), 1: (0, hangs)}
    async with fleet(numbered, numbered, about=ON | {"heartbeat_s": 0.001}, cards=CARDS) as f:
        client = await f.client()
        await client.send(post(*WAYS["chat"]))
        await f.until(lambda: len(numbered.asked) == 2)
        (connection,) = f.gateway.service.clients
        connection.pause_writing()  # as the transport does when its buffer is full
        (exchange,) = f.gateway.driver.exchanges.values()
        sent: list[bytes] = []
        exchange._writer._write = sent.append
        looked: list[float] = []
        driver = f.gateway.driver
        sweep = driver.sweep

        def noted(now: float, *others: Any) -> None:
            sweep(now, *others)
            looked.append(now)

        replace_method(driver, "sweep", noted)
        await f.until(lambda: len(looked) > 5)
        assert not sent
        connection.resume_writing()
        await f.until(lambda: bool(sent))


ENDS = {"finish": ('"finish_reason":"stop"', 13), "usage": ('"choices":[]', 14), "done": ("[DONE]", 15)}


@pytest.mark.parametrize(("behind", "count"), ENDS.values(), ids=ENDS)
async def test_an_answer_that_lacks_nothing_but_its_end_gets_it(fleet, behind, count):
    """count: how many events there are up to there."""
    body = STREAM | {"stream_options": {"include_usage": True}}
    expected = await undisturbed(fleet, "/v1/chat/completions", body)
    numbered = Numbered()

    async def cut(conversation: Conversation) -> None:
        sent = conversation.send_event

        async def send_event(data: str) -> None:
            await sent(data)
            if behind in data:
                while numbered.seen() < count:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                conversation.reset()

        conversation.send_event = send_event
        await numbered(conversation)

    async with fleet(cut, cut, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), "/v1/chat/completions", body, numbered)
        assert answer.body == expected.body
        assert len(numbered.asked) == 1
        assert f.gateway.metrics.outcomes["ok"] == 1
        assert f.gateway.metrics.output_tokens == 12
        f.check_books_are_empty()


async def test_of_two_choices_the_end_of_one_is_not_that_of_the_answer(fleet):
    async def cut(conversation: Conversation) -> None:
        await conversation.begin_stream()
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}
        for index, reason in ((0, None), (1, None), (0, "stop")):
            choice = {"index": index, "delta": {"content": "a"}, "finish_reason": reason, "token_ids": [7]}
            await conversation.send_event(spelled(head | {"choices": [choice], "prompt_token_ids": PROMPT}))
        while numbered.seen() < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)
        conversation.reset()

    numbered = Numbered()
    async with fleet(cut, about=ON, cards=CARDS) as f:
        body = STREAM | {"n": 2, "return_token_ids": True}
        answer = await ask(await f.client(), "/v1/chat/completions", body, numbered)
        assert last_error(answer)["message"].startswith("The instance failed before its answer was complete.")
        assert f.gateway.metrics.outcomes["failed_stream"] == 1


@pytest.mark.parametrize("most", ["10.0", 10.0, "10"])
async def test_numbers_are_read_as_servers_read_them(fleet, most):
    numbered = Numbered()
    numbered.fail_at[0] = (3, dies)
    async with fleet(numbered, numbered, about=ON, cards=CARDS) as f:
        fields = {"max_tokens": 10, "max_completion_tokens": most, "min_tokens": most}
        answer = await ask(await f.client(), "/v1/chat/completions", STREAM | fields, numbered)
        assert text(answer) == whole_text(10)
        assert (numbered.asked[1]["max_tokens"], numbered.asked[1]["min_tokens"]) == (7, 7)
        f.check_books_are_empty()


async def test_a_rest_that_is_no_events_is_not_kept_for_long(fleet, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answer_rest, "MAX_EVENT_BYTES", 4096)

    async def floods(conversation: Conversation) -> None:
        for _ in range(9):
            await conversation.send(b"400\r\n%b\r\n" % (b"x" * 1024))
        await conversation.closed_by_gateway()

    numbered = Numbered()
    numbered.fail_at = {0: (3, dies), 1: (0, floods)}
    expected = await undisturbed(fleet, *WAYS["completions"])
    async with fleet(*[numbered] * 3, about=ON, cards=CARDS) as f:
        answer = await ask(await f.client(), *WAYS["completions"], numbered)
        assert answer.body == expected.body
        assert len(numbered.asked) == 3
        f.check_books_are_empty()
