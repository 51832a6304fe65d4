"""Every trace format as a workload: miniature files, and the public traces where they are at hand."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from dualmap.loadtest.formats import detect, read_workload
from dualmap.loadtest.formats.mooncake import from_trace, read_mooncake, to_trace
from dualmap.loadtest.traces.synth import SynthConfig, synthesise
from dualmap.loadtest.traces.trace import TraceError, TraceRequest, read_trace, write_trace
from dualmap.router.cli.main import main as dualmap

TRACES = Path(__file__).parents[3].parent / "shared" / "traces"


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def weka_row(t: float, tokens: int, out: int = 100, **more: object) -> dict:
    return {"t": t, "type": "n", "in": tokens, "out": out, "hash_ids": list(range(1, tokens // 64 + 1)), **more}


def weka_file(*rows: dict) -> str:
    return json.dumps({"id": "x", "block_size": 64, "hash_id_scope": "local", "requests": list(rows)})


def call(second: float, said: str, answer: str, session: str = "a") -> dict:
    return {"timestamp": int(second * 1e6), "input": said, "output": answer, "session_id": session}


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,600,44\n"
MINIATURES = {
    "mooncake": ("t.jsonl", '{"timestamp": 10, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'),
    "weka": ("t.json", weka_file(weka_row(0.0, 640, api_time=2.0))),
    "lmcache": ("t.jsonl", lines(call(0, "x" * 2400, "y"))),
    "azure": ("t.csv", AZURE),
}


@pytest.mark.parametrize("format", MINIATURES)
def test_the_content_tells_the_format(tmp_path, format):
    name, content = MINIATURES[format]
    path = tmp_path / name
    path.write_text(content)
    assert detect(path) == format
    (request,) = read_workload(path).requests
    assert request.arrival_s == 0.0
    assert request.prompt_tokens in (600, 640)
    assert len(request.blocks) in (1, 2)
    assert request.after is None


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("t.txt", "hello\n", "none of the formats"),
        ("t.json", weka_file(weka_row(-1.0, 640)), r"requests\[0\]: t must be a number"),
        ("t.json", weka_file({**weka_row(0.0, 640), "hash_ids": ["a"]}), "hash_ids must be"),
        ("t.json", weka_file(), "no request in it"),
        ("t.json", '{"block_size": 60, "requests": []}', "block_size must divide 512"),
        ("t.json", '{"block_size": 64, "requests": [', "not JSON"),
        ("t.jsonl", lines(call(0, "x", "y")) + '{"session_id": 3}', "line 2: timestamp must be"),
        ("t.jsonl", lines({**call(0, "x", "y"), "input": 5}), "line 1: input must be a string"),
        ("t.csv", "TIMESTAMP,A\n", "line 1: expected the columns"),
        ("t.csv", AZURE + "2023-11-16 18:15:47.0,x,1\n", "line 3: expected"),
        ("t.csv", AZURE + "2023-11-16 18:15:41.0,6,1\n", "line 3: lengths must be positive and times in order"),
        ("t.jsonl", '{"row":"run"}\n', "line 1: "),
        (None, "", "No such file"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path, name, content, complaint):
    path = tmp_path / (name or "absent")
    if name:
        path.write_text(content)
    with pytest.raises(TraceError, match=complaint) as error:
        read_workload(path)
    assert str(error.value).startswith(str(path))


def test_an_unknown_format_and_an_empty_directory_are_refused(tmp_path):
    with pytest.raises(TraceError, match="unknown format 'tape'"):
        read_workload(tmp_path, "tape")
    with pytest.raises(TraceError, match=r"no \*\.json"):
        read_workload(tmp_path)


def test_chats_come_back_from_a_workload_with_the_same_sharing(tmp_path):
    trace = synthesise(SynthConfig(requests=300))
    write_trace(tmp_path / "t.jsonl", trace)
    assert to_trace(read_mooncake(tmp_path / "t.jsonl")) == trace


def test_follow_ups_wait_only_if_asked_to_and_keep_the_gap():
    chat = [TraceRequest(0, 700, 400, (0, 1)), TraceRequest(60_000, 1600, 9, (0, 2, 3, 4))]
    by_clock, by_turn = from_trace(chat), from_trace(chat, turns=True)
    assert [r.after for r in by_clock.requests] == [None, None]
    assert [(r.after, r.think_s, r.session) for r in by_turn.requests] == [(None, 0.0, 0), (0, 60.0, 0)]


def test_the_answer_has_the_blocks_that_the_next_turn_repeats():
    first, second = from_trace([TraceRequest(0, 700, 400, (0, 1)), TraceRequest(9, 1600, 9, (0, 2, 3, 4))]).requests
    assert first.answer_blocks == second.blocks[1:2]  # 1,100 tokens are two full blocks
    short = from_trace([TraceRequest(0, 700, 4000, (0, 1)), TraceRequest(9, 1600, 9, (0, 2, 3, 4))]).requests[0]
    assert short.answer_blocks == ()  # the next prompt cannot hold that answer


def test_an_agents_turn_waits_for_the_one_before_and_its_tools(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        weka_file(weka_row(0.0, 640, api_time=2.0), weka_row(12.0, 1300, 500), weka_row(30.0, 2000, api_time=3.0))
    )
    first, second, third = read_workload(path).requests
    assert [(r.after, r.think_s) for r in (first, second)] == [(None, 0.0), (0, 10.0)]
    assert third.think_s == pytest.approx(18 - 500 * 0.025)  # nobody timed the second: the pace of the others
    assert [len(r.blocks) for r in (first, second, third)] == [1, 2, 3]  # full blocks of 512
    assert third.blocks[:2] == second.blocks
    assert second.answer_blocks == third.blocks[2:3]


def test_equal_ids_in_two_files_are_different_blocks(tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(weka_file(weka_row(0.0, 640)))
    one, other = read_workload(tmp_path).requests
    assert one.blocks != other.blocks
    assert {one.session, other.session} == {0, 1}


def test_sub_agents_run_side_by_side_and_the_parent_waits_for_the_last(tmp_path):
    def sub_agent(end_s: float, duration_s: float, *rows: dict) -> dict:
        return {"t": end_s, "type": "subagent", "duration_ms": duration_s * 1000, "requests": list(rows)}

    path = tmp_path / "a.json"
    path.write_text(
        weka_file(
            weka_row(0.0, 640, out=1, api_time=4.0),
            sub_agent(25.0, 20.0, weka_row(0.0, 700, out=2, api_time=5.0), weka_row(10.0, 800, out=3, api_time=10.0)),
            sub_agent(15.0, 10.0, weka_row(0.0, 900, out=4, api_time=10.0)),
            weka_row(26.0, 1400, out=5, api_time=1.0),
        )
    )
    by_out = {r.output_tokens: r for r in read_workload(path).requests}
    place = {r.output_tokens: i for i, r in enumerate(read_workload(path).requests)}
    assert [by_out[n].arrival_s for n in (1, 2, 3, 4, 5)] == [0, 5, 15, 5, 26]
    assert [by_out[n].after for n in (2, 3, 4, 5)] == [place[1], place[2], place[1], place[3]]
    assert [by_out[n].think_s for n in (2, 3, 4, 5)] == [1, 5, 1, 1]


def test_an_agents_prompt_is_the_conversation_with_the_answers_that_its_input_lacks(tmp_path):
    path = tmp_path / "a.jsonl"
    question, answer, result = "q" * 2100, "a" * 4000, "r" * 1000
    path.write_text(lines(call(10, question + result, ""), call(0, question, answer), call(8, "other chat", "no")))
    first, other, second = read_workload(path).requests
    assert [r.prompt_tokens for r in (first, other, second)] == [525, 3, 1775]
    assert first.answer_blocks == second.blocks[1:2]
    assert [(r.after, r.think_s) for r in (first, other, second)] == [
        (None, 0.0),
        (0, pytest.approx(8 - 1000 * 0.007)),
        (1, pytest.approx(2 - 0.007)),
    ]
    assert second.output_tokens > 1  # a tool call without text


def test_made_up_prefixes_keep_arrivals_and_lengths_and_follow_the_seed(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"2023-11-16 18:{i // 6:02}:{i % 6 * 10:02}.5,{500 + i * 37 % 3000},{1 + i % 90}\n" for i in range(300)]
    path.write_text(AZURE.splitlines(keepends=True)[0] + "".join(rows))
    requests = read_workload(path, seed=1, turns=True).requests
    assert requests == read_workload(path, seed=1, turns=True).requests
    assert requests != read_workload(path, seed=2, turns=True).requests
    assert [(r.arrival_s, r.prompt_tokens) for r in requests] == [(i * 10.0, 500 + i * 37 % 3000) for i in range(300)]
    followers = [(requests[r.after], r) for r in requests if r.after is not None]
    assert len(followers) > 50
    for before, later in followers:
        assert before.session == later.session
        assert before.prompt_tokens + before.output_tokens <= later.prompt_tokens
        assert later.blocks[: len(before.blocks)] == before.blocks
        assert len(later.blocks) == later.prompt_tokens // 512
    openings = [r.blocks[0] for r in requests if r.after is None and r.blocks]
    assert len(set(openings)) < len(openings)


@pytest.mark.parametrize(
    ("name", "requests", "sessions", "follow_ups"),
    [
        ("mooncake_conversation.jsonl", 12_031, 8_141, 0),
        ("weka_agentic", 590, 25, 565),
        ("lmcache_agents", 391, 20, 371),
        ("azure_2023/conv.csv", 19_366, None, 0),
        ("azure_2023/code.csv", 8_819, None, 0),
    ],
)
def test_public_traces_are_read_whole_and_in_order(name, requests, sessions, follow_ups):
    path = TRACES / name
    if not path.exists():
        pytest.skip(f"no public trace at {path}")
    found = read_workload(path).requests
    assert len(found) == requests
    assert sessions is None or len({r.session for r in found}) == sessions
    assert sum(r.after is not None for r in found) == follow_ups
    assert all(a.arrival_s <= b.arrival_s for a, b in pairwise(found))
    for index, request in enumerate(found):
        assert request.after is None or request.after < index
        assert request.prompt_tokens // 512 <= len(request.blocks) <= -(-request.prompt_tokens // 512)
        whole = (request.prompt_tokens + request.output_tokens) // 512
        assert request.prompt_tokens // 512 + len(request.answer_blocks) <= whole


def test_the_public_chat_trace_comes_back_as_it_was(mooncake_trace):
    assert to_trace(read_mooncake(mooncake_trace)) == read_trace(mooncake_trace)


def test_the_inputs_of_agent_runs_seldom_hold_the_answers_before():
    path = TRACES / "lmcache_agents"
    if not path.exists():
        pytest.skip(f"no public trace at {path}")
    held = []
    for file in sorted(path.glob("*.jsonl")):
        calls = sorted((json.loads(line) for line in file.open()), key=lambda c: c["timestamp"])
        for i, later in enumerate(calls):
            earlier = [c for c in calls[:i] if c["input"] and later["input"].startswith(c["input"])]
            longest = max(earlier, key=lambda c: len(c["input"]), default=None)
            if longest and len(longest["output"]) > 40:
                held.append(longest["output"] in later["input"][len(longest["input"]) :])
    assert len(held) > 200
    assert sum(held) < 0.05 * len(held)


def test_an_answer_that_the_input_holds_is_not_said_twice(tmp_path):
    path = tmp_path / "a.jsonl"
    answer = "a" * 4000
    path.write_text(lines(call(0, "question", answer), call(9, f"question, assistant: {answer}, go on", "b")))
    assert read_workload(path).requests[1].prompt_tokens == -(-len(f"question, assistant: {answer}, go on") // 4)


def test_the_command_converts_cuts_and_scales(tmp_path, capsys):
    source, out = tmp_path / "a.json", tmp_path / "out.jsonl"
    source.write_text(weka_file(weka_row(0.0, 640), weka_row(30.0, 1300), weka_row(60.0, 9000)))

    def convert(*options: str) -> int:
        return dualmap(["trace", "convert", str(source), str(out), *options])

    assert convert("--max-input-tokens", "2000", "--sessions", "20", "--copies", "2", "--qps", "4") == 0
    assert len(read_trace(out)) == 20 * 2 * 2
    assert "sessions  40 named by the trace" in capsys.readouterr().out
    assert convert("--limit", "1") == 0
    assert len(read_trace(out)) == 1
    for refused in (["--qps", "2"], ["--limit", "0"], ["--max-input-tokens", "9"], ["--format", "azure"]):
        assert convert(*refused) == 2
    assert capsys.readouterr().err.count("dualmap trace: ") == 4
