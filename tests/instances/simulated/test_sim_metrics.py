"""The simulated server's metrics have vLLM's names and say what was done."""

import time

from dualmap.instances.simulated.metrics import GAP_BUCKETS, Histogram

GAUGES = {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info"}
COUNTERS = {
    *("prefix_cache_queries", "prefix_cache_hits", "prompt_tokens", "generation_tokens", "num_preemptions"),
    *("external_prefix_cache_hits", "request_success"),
}
HISTOGRAMS = {
    *("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"),
    *("request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds"),
    "iteration_tokens_total",
}


def test_names_and_types_are_those_of_vllm(sim) -> None:
    status, headers, text = sim.request("GET", "/metrics")
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/plain")
    types = {line.split()[2]: line.split()[3] for line in text.decode().splitlines() if line.startswith("# TYPE")}
    assert types.pop("process_start_time_seconds") == "gauge"
    assert types == (
        {f"vllm:{name}": "gauge" for name in GAUGES}
        | {f"vllm:{name}_total": "counter" for name in COUNTERS}
        | {f"vllm:{name}": "histogram" for name in HISTOGRAMS}
    )


def test_the_cache_is_described_in_blocks(start_sim) -> None:
    sim = start_sim("--kv-tokens", "1000", "--block-size", "32", "--model", 'a "quoted" model')
    assert sim.metric("vllm:cache_config_info", block_size="32", num_gpu_blocks="31") == 1
    assert sim.complete("text")["model"] == 'a "quoted" model'
    assert sim.metric("vllm:prompt_tokens_total") == 1


def test_counters_and_histograms_follow_the_requests(start_sim) -> None:
    sim = start_sim("--prefill-tokens-per-s", "1000000")
    prompt = "word " * 16  # 80 bytes: 20 tokens
    sim.complete(prompt, 5)
    sim.complete([prompt, "b"], 2)
    counts = {
        "prefix_cache_queries_total": 41,
        "prefix_cache_hits_total": 16,
        "prompt_tokens_total": 41,
        "generation_tokens_total": 9,
        "num_preemptions_total": 0,
        "time_to_first_token_seconds_count": 3,
        "inter_token_latency_seconds_count": 6,
        "e2e_request_latency_seconds_count": 3,
        "iteration_tokens_total_sum": 34,  # 25 of prompts, 9 of answers
        "num_requests_running": 0,
        "kv_cache_usage_perc": 0,
    }
    assert {name: sim.metric(f"vllm:{name}", model_name="sim", engine="0") for name in counts} == counts
    ended = [sim.metric("vllm:request_success_total", finished_reason=reason) for reason in ("length", "stop", "abort")]
    assert ended == [3, 0, 0]


def test_waiting_and_running_requests_are_gauged(start_sim) -> None:
    sim = start_sim("--prefill-tokens-per-s", "0.001", "--max-num-seqs", "1", "--kv-tokens", "160")
    held = [sim.begin({"prompt": "x" * 100}) for _ in range(3)]
    sim.await_metric("vllm:num_requests_running", 1)
    sim.await_metric("vllm:num_requests_waiting", 2)
    assert sim.metric("vllm:kv_cache_usage_perc") == 0.2  # 25 tokens: 2 of 10 blocks
    for connection in held:
        connection.close()


def test_many_equal_durations_are_one_observation_each() -> None:
    durations = Histogram("gap_seconds", "what", GAP_BUCKETS)
    durations.observe(0.01, 3)
    durations.observe(100.0)
    samples = {(s.name, s.labels.get("le")): s.value for s in durations.metric(("sim", "0")).samples}
    assert samples["gap_seconds_bucket", "0.01"] == samples["gap_seconds_bucket", "80.0"] == 3
    assert samples["gap_seconds_bucket", "+Inf"] == samples["gap_seconds_count", None] == 4
    assert samples["gap_seconds_sum", None] == 100.03


def test_a_server_says_since_when_its_process_runs(start_sim) -> None:
    before = time.time()
    sim = start_sim()
    started_at = sim.metric("process_start_time_seconds")
    assert before < started_at < time.time()
    assert sim.metric("process_start_time_seconds") == started_at
