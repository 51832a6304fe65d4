"""Streams that are cut off, from simulated servers: what the client gets, and that the comparison sees what differs."""

from collections.abc import Iterator

import pytest

from dualmap.loadtest.experiments import cut_streams
from dualmap.loadtest.experiments.cut_streams import Told, read_told
from tests.instances.conftest import SimProcess, starting_sims

CHUNK = b'data: {"id":"a","choices":[{"index":0,"text":"%b","finish_reason":%b}]}\n\n'
USAGE = b'data: {"id":"a","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = CHUNK % (b"one ", b"null") + CHUNK % (b"two", b'"length"') + USAGE + DONE


@pytest.fixture(scope="module")
def servers() -> Iterator[list[SimProcess]]:
    with starting_sims() as start:
        yield [start("--prefill-tokens-per-s", "1000000") for _ in range(2)]


@pytest.mark.slow
def test_cut_streams_of_simulated_servers_are_as_undisturbed_ones(servers, monkeypatch, capsys):
    monkeypatch.setattr(cut_streams, "STALL_S", 0.3)
    monkeypatch.setattr(cut_streams, "FIRST_BYTE_S", 1.0)
    monkeypatch.setattr(cut_streams, "QUESTIONS", 2)
    urls = [f"http://127.0.0.1:{server.port}" for server in servers]
    program = cut_streams.run_as_program(
        cut_streams.add_arguments, cut_streams.run, [*urls, "--cuts", "8", "--max-tokens", "30"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert program == 0, lines
    chats, completions = (line.split() for line in lines[1:3])
    for row in (chats, completions):
        assert (row[1], row[-1]) == ("8", "8")
        assert int(row[2]) > 4  # those whose cut came before their end


@pytest.mark.parametrize(
    ("body", "difference"),
    [
        (WHOLE, ""),
        (WHOLE.replace(b"two", b"twp"), "another text, from character 6 on"),
        (WHOLE.replace(b"one ", b"one two"), "a text of another length"),
        (WHOLE.replace(CHUNK % (b"one ", b"null"), b""), "another text, from character 0 on"),
        (WHOLE.replace(b"two", b""), "a text of another length"),
        (WHOLE.replace(b'"id":"a","choices":[]', b'"id":"b","choices":[]'), "2 ids"),
        (WHOLE.replace(b"length", b"stop"), "another role or finish_reason"),
        (WHOLE.replace(b'"completion_tokens":2', b'"completion_tokens":3'), "another usage"),
        (WHOLE.removesuffix(DONE), "its end is missing"),
        (b'data: {"error":{"message":"It broke."}}\n\n' + DONE, "It broke."),
    ],
    ids=range(10),
)
def test_what_differs_is_said(body, difference):
    undisturbed: Told = read_told(WHOLE)
    assert read_told(body).difference(undisturbed) == difference
