"""data_parallel.py: a server of several engines, each with a cache of its own, as vLLM with --data-parallel-size."""

import pytest

from tests.instances.conftest import JSON_HEADERS

PROMPT = "the same words again " * 20


def cached(sim, rank: str | None, prompt: str = PROMPT) -> int:
    headers = JSON_HEADERS if rank is None else {**JSON_HEADERS, "X-data-parallel-rank": rank}
    status, answer = sim.post("/v1/completions", {"prompt": prompt, "max_tokens": 1}, headers)
    assert status == 200, answer
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_prompt_is_cached_at_the_rank_that_computed_it(start_sim):
    sim = start_sim("--data-parallel-size", "3")
    assert (cached(sim, "1"), cached(sim, "2")) == (0, 0)
    assert cached(sim, "1") > 0
    assert [sim.metric("vllm:prefix_cache_queries_total", engine=str(rank)) > 0 for rank in range(3)] == [
        False,
        True,
        True,
    ]
    assert sim.post("/reset_prefix_cache", {})[1] == {"success": True}
    assert cached(sim, "1") == 0


def test_without_a_rank_requests_go_round_and_away_from_who_is_busy(start_sim):
    sim = start_sim("--data-parallel-size", "2")
    for number in range(6):
        cached(sim, None, f"{number} {PROMPT}")
    assert [sim.metric("vllm:time_to_first_token_seconds_count", engine=engine) for engine in "01"] == [3, 3]
    body = {"prompt": "a", "max_tokens": 20_000, "ignore_eos": True}
    held = sim.begin(body)
    sim.await_metric("vllm:num_requests_running", 1, engine="0")
    for number in range(4):
        cached(sim, "no number", f"again {number} {PROMPT}")
    assert sim.metric("vllm:time_to_first_token_seconds_count", engine="1") == 7
    held.close()


@pytest.mark.parametrize(("size", "rank"), [(2, "2"), (2, "-1"), (1, "1")])
def test_a_rank_that_there_is_not_is_refused_in_vllms_words(start_sim, size, rank):
    sim = start_sim("--data-parallel-size", str(size))
    headers = {**JSON_HEADERS, "X-data-parallel-rank": rank}
    status, answer = sim.post("/v1/completions", {"prompt": "a"}, headers)
    assert (status, answer["error"]["message"]) == (400, f"data_parallel_rank {rank} is out of range [0, {size}).")


def test_where_vllm_does_not_look_at_the_rank_it_chooses(start_sim):
    sim = start_sim("--data-parallel-size", "2")
    headers = {**JSON_HEADERS, "X-data-parallel-rank": "7"}
    for path, body in (("/v1/responses", {"input": "a", "max_output_tokens": 1}), ("/v1/embeddings", {"input": "a"})):
        assert sim.post(path, {"model": "sim", **body}, headers)[0] == 200
    message = {"model": "sim", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    assert sim.post("/v1/messages", message, headers)[0] == 400


def test_metrics_of_all_engines_stand_together(start_sim):
    sim = start_sim("--data-parallel-size", "2")
    _, _, text = sim.request("GET", "/metrics")
    lines = text.decode().splitlines()
    assert len([line for line in lines if line.startswith("# TYPE vllm:num_requests_running ")]) == 1
    (first,) = (number for number, line in enumerate(lines) if line.startswith('vllm:num_requests_running{engine="0"'))
    assert lines[first + 1].startswith('vllm:num_requests_running{engine="1"')
    assert len([line for line in lines if line.startswith("process_start_time_seconds ")]) == 1
