"""The replay process against a real server."""

import asyncio
import json
import signal
import socket

import pytest

from dualmap.loadtest.replay.run_file import Outcome, read_run
from dualmap.loadtest.traces.text import prompt_text
from dualmap.loadtest.traces.trace import TraceRequest, write_trace
from dualmap.router.cli.main import main as dualmap
from tests.conftest import WAIT_S


def chat(number: int, timestamp_ms: int = 0, input_length: int = 100) -> TraceRequest:
    """A request of its own session; `number` is its max_tokens."""
    return TraceRequest(timestamp_ms, input_length, number, (1000 + number,))


async def never(call) -> None:
    await asyncio.Event().wait()


def test_answers_that_are_slow_hold_back_no_other_request(model_server, start_replay):
    async def all_wait_for_the_last(call):
        await model_server.until_arrived(8)
        call.answer()

    model_server.behave = all_wait_for_the_last
    replay = start_replay([chat(i, timestamp_ms=20 * i) for i in range(1, 9)], model_server.port)
    rows = replay.rows()
    assert {row.outcome for row in rows.values()} == {Outcome.OK}
    assert sorted(model_server.arrived) == list(range(1, 9))
    released_s = [rows[i].released_s for i in range(8)]
    assert released_s == sorted(released_s)
    assert replay.process.returncode == 0


def test_a_turn_waits_for_the_turn_before_it_and_for_nothing_else(model_server, start_replay):
    first = TraceRequest(0, 600, 1, (7, 8))
    second = TraceRequest(1, 1200, 2, (7, 9, 10))
    other = TraceRequest(2, 600, 3, (20, 21))

    async def first_ends_after_the_other_came(call):
        if call.max_tokens == 1:
            await model_server.until_arrived(3)
        call.answer()
        model_server.log.append(f"answered {call.max_tokens}")

    model_server.behave = first_ends_after_the_other_came
    rows = start_replay([first, second, other], model_server.port).rows()
    assert model_server.arrived[2] == 2
    assert model_server.log.index("answered 1") < model_server.log.index("answered 2")
    assert rows[1].after == 0
    assert rows[1].held_back_s > 0
    assert rows[1].released_s >= rows[0].released_s + rows[0].e2e_s
    assert rows[2].held_back_s == 0


def test_a_turn_is_released_when_the_turn_before_it_failed(model_server, start_replay):
    async def refuse_the_first(call):
        if call.max_tokens == 1:
            call.writer.write(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
        else:
            call.answer()

    model_server.behave = refuse_the_first
    rows = start_replay(
        [TraceRequest(0, 600, 1, (7, 8)), TraceRequest(0, 1200, 2, (7, 9, 10))], model_server.port
    ).rows()
    assert (rows[0].outcome, rows[1].outcome) == (Outcome.HTTP_ERROR, Outcome.OK)


def test_ttft_is_the_first_token_not_the_head_and_not_the_end(model_server, start_replay):
    async def head_then_body_then_end(call):
        if call.max_tokens == 1:
            call.head()
            await model_server.until_arrived(2)
            call.token()
            await call.writer.drain()
            await model_server.until_arrived(3)
            call.finish()
        else:
            call.answer()

    model_server.behave = head_then_body_then_end
    rows = start_replay([chat(1), chat(2, 300), chat(3, 900)], model_server.port).rows()
    assert rows[0].released_s + rows[0].ttft_s > rows[1].released_s
    assert rows[0].released_s + rows[0].e2e_s > rows[2].released_s
    assert rows[0].ttft_s < rows[0].e2e_s


def test_a_row_carries_usage_and_the_gateways_headers(model_server, start_replay):
    async def full(call):
        usage = {"prompt_tokens": 90, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 64}}
        call.answer("x-dualmap-instance: i-3\r\nx-dualmap-queue-ms: 12.5\r\nx-request-id: abc\r\n", usage)

    model_server.behave = full
    row = start_replay([chat(4)], model_server.port).rows()[0]
    assert (row.instance, row.queue_ms, row.request_id) == ("i-3", 12.5, "abc")
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.status) == (90, 4, 64, 200)
    assert 0 <= row.released_s <= row.sent_s <= row.released_s + row.ttft_s


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_requests_ask_for_a_stream_of_the_traces_length_over_the_traces_text(model_server, start_replay, api):
    bodies = []

    async def keep(call):
        bodies.append(json.loads(call.body))
        call.answer()

    model_server.behave = keep
    request = TraceRequest(0, 700, 5, (3, 4))
    replay = start_replay([request], model_server.port, api=api)
    replay.rows()
    body = bodies[0]
    prompt = body["messages"][0]["content"] if api == "chat" else body["prompt"]
    assert prompt == prompt_text(request)
    assert (body["max_tokens"], body["ignore_eos"], body["stream"]) == (5, True, True)
    assert body["stream_options"] == {"include_usage": True}
    assert body["model"] == replay.header.model == "tiny"


async def shed(call):
    call.head("429 Too Many Requests", "Retry-After: 1\r\n")
    call.raw(b'{"error":{"message":"queue full"}}')
    call.writer.write(b"0\r\n\r\n")


async def cut_off(call):
    call.head()
    call.token()
    await call.writer.drain()


async def not_http(call):
    call.writer.write(b"hello there\r\n\r\n")


async def hang_up(call):
    pass


async def without_done(call):
    call.head()
    call.token()
    call.writer.write(b"0\r\n\r\n")


async def aborted(call):
    call.head()
    call.token()
    call.finish("abort")


async def error_event(call):
    call.head()
    call.token()
    call.event({"error": {"message": "engine died", "code": 500}})
    call.raw(b"data: [DONE]\n\n")
    call.writer.write(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("behaviour", "outcome", "detail"),
    [
        (shed, Outcome.SHED, "queue full"),
        (cut_off, Outcome.BROKEN, "cut off in mid-stream"),
        (not_http, Outcome.BROKEN, "HttpParser"),
        (hang_up, Outcome.BROKEN, "before a status line"),
        (without_done, Outcome.BROKEN, "without [DONE]"),
        (aborted, Outcome.BROKEN, "abort"),
        (error_event, Outcome.BROKEN, "engine died"),
        (never, Outcome.TIMEOUT, "no end within"),
    ],
)
def test_every_way_to_fail_has_its_row(model_server, start_replay, behaviour, outcome, detail):
    model_server.behave = behaviour
    replay = start_replay([chat(1), chat(2)], model_server.port, request_timeout_s=0.5 if behaviour is never else 60.0)
    for row in replay.rows().values():
        assert (row.outcome, detail in row.detail) == (outcome, True), row.detail
    assert replay.process.returncode == 0


def test_no_listener_gives_connect_errors(start_replay):
    with socket.socket() as reserved:  # bound but not listening: connections are refused
        reserved.bind(("127.0.0.1", 0))
        rows = start_replay([chat(1), chat(2)], reserved.getsockname()[1], model="m").rows()
    assert {row.outcome for row in rows.values()} == {Outcome.CONNECT_ERROR}
    assert {row.sent_s for row in rows.values()} == {None}


def test_without_a_model_name_an_absent_target_is_an_error_and_no_run(start_replay):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        replay = start_replay([chat(1)], reserved.getsockname()[1])
        _, stderr = replay.process.communicate(timeout=WAIT_S)
    assert replay.process.returncode == 2
    assert b"/v1/models" in stderr
    assert not replay.out.exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_row_for_each_request(model_server, start_replay, signum):
    async def interrupt_at_the_second(call):
        if call.max_tokens == 2:
            replay.process.send_signal(signum)
        await never(call)

    model_server.behave = interrupt_at_the_second
    far_ms = 3_600_000
    replay = start_replay([chat(1), chat(2), chat(3, far_ms), chat(4, far_ms)], model_server.port)
    rows = replay.rows()
    assert replay.process.returncode == 130
    assert {(row.outcome, row.detail) for row in rows.values()} == {(Outcome.UNFINISHED, "interrupted")}
    assert [rows[i].released_s is not None for i in range(4)] == [True, True, False, False]


def test_the_time_limit_ends_a_run_whose_answers_never_come(model_server, start_replay):
    model_server.behave = never
    replay = start_replay([chat(1), chat(2, 3_600_000)], model_server.port, time_limit_s=0.5)
    assert {row.outcome for row in replay.rows().values()} == {Outcome.UNFINISHED}
    assert replay.process.returncode == 1


def test_limit_and_longest_prompt_choose_the_requests_and_qps_scales_their_clock(model_server, start_replay):
    async def answer(call):
        call.answer()

    model_server.behave = answer
    requests = [chat(1), chat(2, 500, input_length=500), chat(3, 1000), chat(4, 2000)]
    replay = start_replay(requests, model_server.port, max_input_tokens=400, limit=2, qps=8.0)
    rows = replay.rows()
    assert sorted(model_server.arrived) == [1, 3]
    assert [rows[i].scheduled_s for i in range(2)] == [0.0, pytest.approx(2 / 8.0)]
    assert replay.header.requests == 2


def replay_command(*words: str) -> int:
    return dualmap(["replay", *words])


def test_the_command_replays_and_reports(model_server, tmp_path, capsys):
    async def answer(call):
        call.answer(usage={"prompt_tokens": 90, "completion_tokens": 2})

    model_server.behave = answer
    trace, out, html = tmp_path / "t.jsonl", tmp_path / "runs" / "x.jsonl", tmp_path / "r.html"
    write_trace(trace, [chat(1), chat(2)])
    target = f"http://127.0.0.1:{model_server.port}"
    options = ["--label", "tiny run", "--note", "a test", "--slo", "60", "--out", str(out), "--html", str(html)]
    assert replay_command(str(trace), "--target", target, *options) == 0
    header, rows = read_run(out)
    assert (header.label, header.note, header.slo_s, len(rows)) == ("tiny run", "a test", 60.0, 2)
    shown = capsys.readouterr().out
    assert "tiny run" in shown
    assert "100.0%" in shown
    assert "a test" in html.read_text()


def test_a_run_that_cannot_start_leaves_no_rows_of_an_earlier_one(tmp_path):
    out = tmp_path / "x.jsonl"
    out.write_text("an earlier run")
    assert replay_command(str(tmp_path / "absent"), "--target", "http://127.0.0.1:1", "--out", str(out)) == 2
    assert not out.exists()


@pytest.mark.parametrize("words", [["--qps", "0"], ["--qps", "1", "--speed", "2"], ["--limit", "0"], ["--slo", "nan"]])
def test_bad_options_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        replay_command("t.jsonl", "--target", "http://127.0.0.1:1", *words)
    assert words[0] in capsys.readouterr().err
