"""Workloads that are made: what they share, how long they are, and how they grow with a cluster."""

from collections import Counter
from statistics import mean, median

import pytest

from dualmap.loadtest.formats import read_workload
from dualmap.loadtest.traces.hot_prefix import HOT_BLOCKS, REQUESTS, hot_prefix, is_synthetic, low_reuse, synthetic
from dualmap.loadtest.traces.trace import TraceError
from dualmap.loadtest.virtual.simulated_workload import Setup, workload_of
from dualmap.scheduler.blocks import hash_trace_ids

COMMON = hash_trace_ids(range(HOT_BLOCKS))


@pytest.mark.parametrize(
    ("name", "hot_share", "answers"),
    [("synth:hot", 1.0, 350), ("synth:hot-short", 1.0, 10.5), ("synth:hot-60", 0.6, 350)],
)
def test_prompts_share_their_blocks_and_differ_behind_them(name: str, hot_share: float, answers: float) -> None:
    requests = read_workload(name).requests
    assert len(requests) == REQUESTS
    assert {len(request.blocks) for request in requests} == {HOT_BLOCKS}
    tails = [request.prompt_tokens - HOT_BLOCKS * 512 for request in requests]
    assert (min(tails) >= 20, max(tails)) == (True, 470)
    assert median(tails) == pytest.approx(423, rel=0.05)
    assert mean(request.blocks == COMMON for request in requests) == pytest.approx(hot_share, abs=0.02)
    others = Counter(request.blocks[0] for request in requests if request.blocks != COMMON)
    assert set(others.values()) <= {1}
    assert mean(request.output_tokens for request in requests) == pytest.approx(answers, rel=0.03)
    assert min(request.output_tokens for request in requests) == 1
    assert len({request.session for request in requests}) == len(requests)


def test_prompts_of_low_reuse_share_nothing_and_are_as_long_as_chats() -> None:
    requests = read_workload("synth:low-reuse").requests
    blocks = [block for request in requests for block in request.blocks]
    assert len(blocks) == len(set(blocks))
    assert all(len(request.blocks) == request.prompt_tokens // 512 for request in requests)
    assert mean(request.prompt_tokens for request in requests) == pytest.approx(8000, rel=0.03)
    assert max(request.prompt_tokens for request in requests) == 20_480
    assert mean(request.output_tokens for request in requests) == pytest.approx(340, rel=0.03)


@pytest.mark.parametrize("make", [hot_prefix, low_reuse])
def test_a_seed_makes_the_same_workload_again_and_another_one_another(make) -> None:
    assert make("w", 50, 1) == make("w", 50, 1)
    assert make("w", 50, 1) != make("w", 50, 2)
    assert make("w", 50, 1).requests[:20] == make("w", 20, 1).requests


def test_a_larger_cluster_gets_more_requests_of_the_one_prefix() -> None:
    requests = workload_of(Setup("synth:hot", instances=64, limit=100), 50.0, 0).requests
    assert len(requests) == 400
    assert {request.blocks for request in requests} == {COMMON}
    assert requests[-1].arrival_s == pytest.approx(8.0)


def test_arrivals_are_in_order_and_at_random() -> None:
    arrivals = [request.arrival_s for request in synthetic("synth:hot", 500).requests]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] == pytest.approx(125, rel=0.15)


def test_a_name_that_there_is_not_is_refused_with_those_there_are() -> None:
    assert not is_synthetic("hot.jsonl")
    with pytest.raises(TraceError, match=r"synth:warm: no such workload.*hot, hot-short, hot-60, low-reuse"):
        read_workload("synth:warm")
