"""Synthetic traces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualmap.loadtest.traces.describe import describe, reusable_share
from dualmap.loadtest.traces.sessions import predecessors
from dualmap.loadtest.traces.synth import SynthConfig, synthesise
from dualmap.loadtest.traces.trace import read_trace, write_trace
from dualmap.router.cli.main import main as dualmap

configs = st.builds(
    SynthConfig,
    requests=st.integers(1, 200),
    seed=st.integers(0, 2**32),
    qps=st.floats(0.1, 50),
    system_prompts=st.integers(1, 40),
    zipf=st.floats(0, 2),
    mean_turns=st.floats(1, 8),
    max_input_tokens=st.integers(1024, 30_000),
)


@settings(max_examples=10)
@given(configs)
def test_every_configuration_gives_a_valid_trace(tmp_path_factory, config):
    requests = synthesise(config)
    path = tmp_path_factory.mktemp("synth") / "t.jsonl"
    write_trace(path, requests)  # reading it back checks lengths, ids and order
    assert read_trace(path) == requests
    assert len(requests) == config.requests
    assert requests[0].timestamp_ms == 0
    assert max(r.input_length for r in requests) <= config.max_input_tokens


@settings(max_examples=10)
@given(configs)
def test_a_block_id_always_follows_the_same_block(config):
    parents: dict[int, int | None] = {}
    for request in synthesise(config):
        for parent, block_id in zip((None, *request.hash_ids), request.hash_ids, strict=False):
            assert parents.setdefault(block_id, parent) == parent


@settings(max_examples=10)
@given(configs)
def test_ids_are_numbered_in_order_of_appearance(config):
    seen = list(dict.fromkeys(block_id for request in synthesise(config) for block_id in request.hash_ids))
    assert seen == list(range(len(seen)))


def test_a_turns_prompt_holds_the_answer_before_it():
    requests = synthesise(SynthConfig(requests=2000))
    pairs = [(requests[i], r) for r, i in zip(requests, predecessors(requests), strict=True) if i is not None]
    grown = [later.input_length >= earlier.input_length + earlier.output_length for earlier, later in pairs]
    assert len(pairs) > 200
    assert sum(grown) >= 0.95 * len(grown)  # links are found by blocks; a few join chats that begin alike


def test_the_same_seed_gives_the_same_trace_and_another_seed_another():
    assert synthesise(SynthConfig(requests=50, seed=3)) == synthesise(SynthConfig(requests=50, seed=3))
    assert synthesise(SynthConfig(requests=50, seed=3)) != synthesise(SynthConfig(requests=50, seed=4))


def test_arrivals_have_the_rate_asked_for():
    requests = synthesise(SynthConfig(requests=5000, qps=10.0))
    assert 5000 / (requests[-1].timestamp_ms / 1000) == pytest.approx(10.0, rel=0.15)


def test_a_few_system_prompts_are_hot():
    even = synthesise(SynthConfig(requests=1000, zipf=0.0))
    skewed = synthesise(SynthConfig(requests=1000, zipf=2.0))
    hottest = [max(sum(r.hash_ids[0] == i for r in trace) for i in range(100)) for trace in (even, skewed)]
    assert hottest[1] > 2 * hottest[0]


@pytest.mark.parametrize("change", [{"requests": 0}, {"qps": 0}, {"mean_turns": 0.5}, {"max_input_tokens": 100}])
def test_a_configuration_that_makes_no_sense_is_refused(change):
    with pytest.raises(ValueError, match="must be"):
        SynthConfig(**change)


def test_the_reusable_share_counts_full_blocks_seen_before():
    trace = synthesise(SynthConfig(requests=1, seed=1))
    assert reusable_share(trace) == 0
    assert reusable_share([*trace, *trace]) == pytest.approx(trace[0].full_blocks * 512 / trace[0].input_length / 2)


def test_the_command_writes_a_trace_and_describes_it(tmp_path, capsys):
    out = tmp_path / "t.jsonl"
    assert dualmap(["trace", "synth", "--out", str(out), "--requests", "40"]) == 0
    assert dualmap(["trace", "describe", str(out)]) == 0
    assert capsys.readouterr().out.count("prompt tokens") == 4
    assert dualmap(["trace", "describe", str(tmp_path / "absent")]) == 2


def test_a_trace_of_one_request_can_be_described():
    assert dict(describe(synthesise(SynthConfig(requests=1))))["arrival rate"] == "all at once"
