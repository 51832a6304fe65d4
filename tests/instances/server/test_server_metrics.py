"""What is read of /metrics as vLLM 0.32 writes it, and of what other versions and servers write."""

import pytest

from dualmap.instances.server.metrics import LOOKS_AGAIN, MetricsReader, ServerMetrics, read_metrics

VLLM_0_32 = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
process_start_time_seconds 1.79540738595e+09
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 2.0
vllm:engine_sleep_state{engine="0",model_name="tiny",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="0",model_name="tiny",sleep_state="weights_offloaded"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 1000.0
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 640.0
vllm:num_preemptions_total{engine="0",model_name="tiny"} 7.0
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 1.2e+06
vllm:prompt_tokens_by_source_total{engine="0",model_name="tiny",source="local_compute"} 5.0
vllm:generation_tokens_total{engine="0",model_name="tiny"} 99.0
vllm:iteration_tokens_total_count{engine="0",model_name="tiny"} 123.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="tiny"} 4.0
vllm:cache_config_info{block_size="32",engine="0",kv_cache_size_tokens="64000",num_gpu_blocks="2000"} 1.0
"""


def test_every_field_is_read():
    assert read_metrics(VLLM_0_32.encode()) == ServerMetrics(
        running=3,
        waiting=2,
        kv_used=0.25,
        preemptions=7,
        steps=123,
        asleep=False,
        started_at=1.79540738595e09,
        kv_tokens=64_000,
        block_tokens=32,
        prompt_tokens=1_200_000,
        generation_tokens=99,
        prefix_queries_tokens=1000,
        prefix_hits_tokens=640,
    )


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_a_number_that_is_none_counts_as_not_told(value: str):
    text = VLLM_0_32.replace("1.79540738595e+09", value).replace("123.0", value).replace("0.25", value)
    read = read_metrics(text.encode())
    assert (read.running, read.started_at, read.steps, read.kv_used) == (3, 0.0, 0, 0.0)
    assert read_metrics(text.replace(" 3.0", f" {value}").encode()) is None


def test_when_a_value_was_true_is_not_taken_for_the_value():
    stamped = "".join(line + ("" if line[0] == "#" else " 1700000000000") + "\n" for line in VLLM_0_32.splitlines())
    assert read_metrics(stamped.encode()) == read_metrics(VLLM_0_32.encode())


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ('vllm:engine_sleep_state{engine="0",sleep_state="awake"} 0.0', "asleep", True),
        ('vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0', "kv_tokens", 1600),
        ('vllm:cache_config_info{block_size="16",num_gpu_blocks="None"} 1.0', "kv_tokens", 0),
        ('vllm:num_requests_waiting{engine="1",model_name="tiny"} 4.0', "waiting", 4),
        (
            'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a",waiting_lora_adapters=""} 1.7e9\n'
            'vllm:lora_requests_info{max_lora="2",running_lora_adapters="b,c",waiting_lora_adapters="a"} 1.8e9\n'
            'vllm:lora_requests_info{max_lora="2",running_lora_adapters="",waiting_lora_adapters="a"} 1.6e9',
            "adapters",
            ("b", "c", "a"),
        ),
    ],
)
def test_fields_as_other_versions_and_states_write_them(line: str, field: str, value):
    metrics = read_metrics(f"vllm:num_requests_running 0.0\n{line}\n".encode())
    assert getattr(metrics, field) == value


def test_engines_of_a_data_parallel_server_are_summed_and_the_fullest_pool_counts():
    lines = []
    for line in VLLM_0_32.splitlines():
        lines += (
            [line, line.replace('engine="0"', 'engine="1"').replace("0.25", "0.75")] if "engine" in line else [line]
        )
    metrics = read_metrics("\n".join(lines).encode())
    assert (metrics.running, metrics.waiting, metrics.kv_tokens, metrics.kv_used) == (6, 4, 128_000, 0.75)


def test_what_moves_comes_or_goes_from_one_text_to_the_next_is_found():
    reader = MetricsReader()
    assert reader.read(VLLM_0_32.encode()).running == 3
    padding = "# " + "x" * 5000 + "\n"
    later = (padding + VLLM_0_32 + padding).replace("tiny", "a-model-of-another-name").replace("} 3.0", "} 30.0")
    assert reader.read(later.encode()).running == 30
    assert reader.read(VLLM_0_32.encode()).running == 3
    info = 'vllm:lora_requests_info{max_lora="2",running_lora_adapters="a",waiting_lora_adapters=""} 1.7e9\n'
    assert any(reader.read((info + VLLM_0_32).encode()).adapters == ("a",) for _ in range(LOOKS_AGAIN))
    assert reader.read(VLLM_0_32.encode()).adapters == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "process_start_time_seconds 1.0\n",
        "vllm:num_requests_running NaN\n",
        "vllm:num_requests_running +Inf\n",
        "vllm:num_requests_running 1e308\nvllm:num_requests_running 1e308\n",
    ],
)
def test_what_is_not_from_vllm_is_none(text: str):
    assert read_metrics(text.encode()) is None


def of_engines(*engines: int) -> bytes:
    """Of a server with engines of these numbers, each with that many requests, and half as many waiting."""
    lines = ["process_start_time_seconds 5.0"]
    for name, of in (
        ("num_requests_running{{{}}} {}", lambda engine: engine),
        ("num_requests_waiting{{{}}} {}", lambda engine: engine / 2),
        ("kv_cache_usage_perc{{{}}} {}", lambda engine: engine / 100),
        ('iteration_tokens_total_bucket{{le="1.0",{}}} {}', lambda engine: 1),
        ("iteration_tokens_total_count{{{}}} {}", lambda engine: 10 * engine),
        ('cache_config_info{{block_size="16",num_gpu_blocks="{1}",{0}}} 1.0', lambda engine: 100 + engine),
    ):
        lines += [f"vllm:{name}".format(f'engine="{engine}",model_name="m"', of(engine)) for engine in engines]
    return "\n".join(lines).encode()


def test_the_metrics_of_one_rank_are_its_own_engines():
    text = of_engines(0, 2, 10)
    assert MetricsReader(2).read(text) == ServerMetrics(
        running=10, waiting=5, kv_used=0.1, steps=100, started_at=5.0, kv_tokens=1760, block_tokens=16, engines=3
    )
    whole = read_metrics(text)
    assert (whole.running, whole.steps, whole.kv_tokens, whole.engines) == (12, 120, 16 * 312, 3)


def test_ranks_are_counted_from_a_servers_first_engine():
    assert MetricsReader(1).read(of_engines(4, 6)).running == 6


def test_a_rank_that_there_is_not_is_seen_by_how_many_there_are():
    assert MetricsReader(2).read(of_engines(4, 6)).engines == 2


def test_a_server_that_names_no_engine_has_one():
    assert MetricsReader(0).read(b"vllm:num_requests_running 3.0\n").running == 3
