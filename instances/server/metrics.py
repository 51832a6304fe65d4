"""What is read of a vLLM server's /metrics (Prometheus text format; names of vLLM 0.16 to 0.32)."""

import re
from dataclasses import dataclass

_WANTED = re.compile(
    r"^(vllm:num_requests_running|vllm:num_requests_waiting|vllm:kv_cache_usage_perc|vllm:num_preemptions_total"
    r"|vllm:prefix_cache_queries_total|vllm:prefix_cache_hits_total|vllm:prompt_tokens_total"
    r"|vllm:generation_tokens_total|vllm:iteration_tokens_total_count|vllm:engine_sleep_state|vllm:cache_config_info"
    r"|vllm:lora_requests_info"
    r"|process_start_time_seconds)(\{.*\})? (\S+)$",
    re.MULTILINE,
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """Sums over the server's engines. kv_used: share of the KV pool held by requests, 0 to 1, of the fullest engine.
    steps: of the engines since their start. asleep: /sleep was called. started_at: of the server's process, Unix
    seconds, 0 where unknown. kv_tokens: size of the pool, 0 where unknown. Token counts are since the start.
    adapters: LoRA adapters of requests there. max_adapters: how many it has loaded at once, 0 where unknown.
    """

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    preemptions: int = 0
    steps: int = 0
    asleep: bool = False
    started_at: float = 0.0
    kv_tokens: int = 0
    block_tokens: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries_tokens: int = 0
    prefix_hits_tokens: int = 0
    adapters: tuple[str, ...] = ()
    max_adapters: int = 0


def read_metrics(text: str) -> ServerMetrics | None:
    """None if they are not those of a vLLM server."""
    sums: dict[str, float] = {}
    kv_used = started_at = 0.0
    kv_tokens = block_tokens = 0
    asleep = False
    adapters, adapters_at = dict[str, str](), 0.0
    for name, labels, value_text in _WANTED.findall(text):
        value = float(value_text)
        if name == "vllm:kv_cache_usage_perc":
            kv_used = max(kv_used, value)
        elif name == "vllm:engine_sleep_state":
            asleep = asleep or ('sleep_state="awake"' in labels and value == 0.0)
        elif name == "vllm:cache_config_info":
            config = dict(_LABEL.findall(labels))
            block_tokens = _whole(config.get("block_size"))
            kv_tokens += _whole(config.get("kv_cache_size_tokens")) or block_tokens * _whole(
                config.get("num_gpu_blocks")
            )
        elif name == "vllm:lora_requests_info":  # one for each set of adapters there was; the value is when
            if value > adapters_at:
                adapters, adapters_at = dict(_LABEL.findall(labels)), value
        elif name == "process_start_time_seconds":
            started_at = value
        else:
            sums[name] = sums.get(name, 0.0) + value
    if "vllm:num_requests_running" not in sums:
        return None

    def count(name: str) -> int:
        return int(sums.get(f"vllm:{name}", 0.0))

    return ServerMetrics(
        running=count("num_requests_running"),
        waiting=count("num_requests_waiting"),
        kv_used=kv_used,
        preemptions=count("num_preemptions_total"),
        steps=count("iteration_tokens_total_count"),
        asleep=asleep,
        started_at=started_at,
        kv_tokens=kv_tokens,
        block_tokens=block_tokens,
        prompt_tokens=count("prompt_tokens_total"),
        generation_tokens=count("generation_tokens_total"),
        prefix_queries_tokens=count("prefix_cache_queries_total"),
        prefix_hits_tokens=count("prefix_cache_hits_total"),
        adapters=_names(adapters.get("running_lora_adapters", ""), adapters.get("waiting_lora_adapters", "")),
        max_adapters=_whole(adapters.get("max_lora")),
    )


def _names(*lists: str) -> tuple[str, ...]:
    """Each once. vLLM 0.32 names each adapter as running and as waiting, whatever its requests do."""
    return tuple(dict.fromkeys(name for names in lists for name in names.split(",") if name))


def _whole(text: str | None) -> int:
    """0 where the server says None, as it does for what it does not know."""
    return int(text) if text and text.isdigit() else 0
