"""The arrival rate that round_robin can bear."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualmap.loadtest.traces.load_level import round_robin_qps, round_robin_uncached
from dualmap.loadtest.traces.synth import SynthConfig, synthesise
from dualmap.loadtest.traces.trace import TraceRequest, read_trace

NO_DECODE = {"step_s": 0.0, "decode_s_per_token": 0.0, "decode_s_per_context_token": 0.0}


def test_a_prefix_is_computed_once_on_each_instance():
    request = TraceRequest(0, 1536, 1, (0, 1, 2))
    longer = TraceRequest(0, 1700, 1, (0, 1, 2, 3))
    uncached = round_robin_uncached([request, request, longer, longer], instances=2, kv_tokens=10_000)
    assert uncached == [1536, 1536, 164, 164]


def test_the_last_token_of_a_prompt_is_always_computed():
    request = TraceRequest(0, 512, 1, (0,))
    assert round_robin_uncached([request, request], 1, 10_000) == [512, 1]


def test_the_least_recently_used_blocks_are_evicted_the_end_of_a_prefix_first():
    a, b = TraceRequest(0, 1024, 1, (0, 1)), TraceRequest(0, 1024, 1, (2, 3))
    assert round_robin_uncached([a, b, a], 1, kv_tokens=4 * 512) == [1024, 1024, 1]
    assert round_robin_uncached([a, b, a], 1, kv_tokens=3 * 512) == [1024, 1024, 512]
    assert round_robin_uncached([a, b, a], 1, kv_tokens=2 * 512) == [1024, 1024, 1024]


def test_without_reuse_the_rate_is_what_prefill_allows():
    requests = [TraceRequest(0, 1000, 1, (2 * i, 2 * i + 1)) for i in range(10)]
    assert round_robin_qps(requests, 4, 0.001, kv_tokens=10**6, share=0.5, **NO_DECODE) == pytest.approx(2.0)


@given(st.integers(1, 16), st.floats(0.1, 1.0))
def test_the_rate_grows_with_instances_and_share(instances, share):
    requests = synthesise(SynthConfig(requests=50))
    rate = round_robin_qps(requests, instances, 0.00016, kv_tokens=740_000, share=share)
    assert rate > 0
    assert round_robin_qps(requests, instances, 0.00016, kv_tokens=740_000, share=share / 2) == pytest.approx(rate / 2)
    assert round_robin_qps(requests, instances, 0.00032, kv_tokens=740_000, share=share) < rate


@pytest.mark.parametrize(("requests", "instances", "share"), [([], 1, 0.8), ([TraceRequest(0, 1, 1, (0,))], 0, 0.8)])
def test_what_has_no_rate_is_refused(requests, instances, share):
    with pytest.raises(ValueError, match="needs requests"):
        round_robin_qps(requests, instances, 0.1, kv_tokens=512, share=share)


def test_the_public_trace_is_in_the_range_that_a_policy_study_measured(mooncake_trace):
    requests = [r for r in read_trace(mooncake_trace) if r.input_length <= 20_480]
    assert 5.0 < round_robin_qps(requests, 8, 0.00016, kv_tokens=740_000, share=0.8) < 7.0
