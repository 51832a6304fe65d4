"""The simulated server's /metrics, under vLLM's names."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from instances.engine import Engine, Sequence

LABELS = ("model_name", "engine")
SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
COUNTED = {  # vLLM's counters, and the engine's that feed them
    "vllm:prefix_cache_queries": "queries",
    "vllm:prefix_cache_hits": "hits",
    "vllm:prompt_tokens": "prompt_tokens",
    "vllm:generation_tokens": "generation_tokens",
    "vllm:num_preemptions": "preemptions",
}
TIMES = (
    "vllm:time_to_first_token_seconds",
    "vllm:inter_token_latency_seconds",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds",
    "vllm:request_prefill_time_seconds",
    "vllm:request_decode_time_seconds",
)


class SimMetrics:
    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._registry = CollectorRegistry()
        labels = {"model_name": model, "engine": "0"}
        self._running = self._gauge("vllm:num_requests_running", "Requests in the batch", labels)
        self._waiting = self._gauge("vllm:num_requests_waiting", "Requests waiting to be processed", labels)
        self._usage = self._gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", labels)
        self._counters = {
            key: Counter(name, key, LABELS, registry=self._registry).labels(**labels) for name, key in COUNTED.items()
        }
        self._seen = dict.fromkeys(self._counters, 0)
        self._times = [
            Histogram(n, n, LABELS, registry=self._registry, buckets=SECONDS).labels(**labels) for n in TIMES
        ]
        self._finished = Counter(
            "vllm:request_success", "Requests by how they ended", (*LABELS, "finished_reason"), registry=self._registry
        )
        self._labels = labels
        config = {"block_size": str(engine.profile.block_size), "num_gpu_blocks": str(engine.pool.total_blocks)}
        info = Gauge(
            "vllm:cache_config_info", "The cache's configuration", (*config, "engine"), registry=self._registry
        )
        info.labels(**config, engine="0").set(1)

    def ended(self, sequence: Sequence, reason: str, now: float) -> None:
        """A request has ended; times are observed for complete ones."""
        self._finished.labels(**self._labels, finished_reason=reason).inc()
        admitted_at, first_token_at = sequence.admitted_at, sequence.first_token_at
        if reason == "abort" or admitted_at is None or first_token_at is None:
            return
        decode_s = now - first_token_at
        observed = (
            first_token_at - sequence.arrived_at,
            decode_s / (sequence.produced - 1) if sequence.produced > 1 else None,
            now - sequence.arrived_at,
            admitted_at - sequence.arrived_at,
            first_token_at - admitted_at,
            decode_s,
        )
        for histogram, seconds in zip(self._times, observed, strict=True):
            if seconds is not None:
                histogram.observe(seconds)

    def scrape(self) -> bytes:
        engine = self._engine
        self._running.set(len(engine.running))
        self._waiting.set(len(engine.waiting))
        self._usage.set(engine.pool.used_blocks / engine.pool.total_blocks)
        for key, counter in self._counters.items():
            counter.inc(engine.counters[key] - self._seen[key])
            self._seen[key] = engine.counters[key]
        return generate_latest(self._registry)

    def _gauge(self, name: str, description: str, labels: dict[str, str]) -> Gauge:
        return Gauge(name, description, LABELS, registry=self._registry).labels(**labels)
