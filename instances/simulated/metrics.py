"""The simulated server's /metrics, under vLLM's names and with its buckets (vllm/v1/metrics/loggers.py)."""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.engine_types import FinishedRequest, StepOutput

LABELS = ("model_name", "engine")
FINISH_REASONS = ("stop", "length", "abort", "error")

# Upper bounds in seconds.
TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
GAP_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0),
    *(50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TOKEN_BUCKETS = tuple(2.0**power for power in (0, *range(3, 15)))


class Histogram:
    """Of seconds, or of tokens. Unlike the Prometheus client's it takes many equal observations at once: all sequences
    of a step have waited equally long for their token."""

    def __init__(self, name: str, what: str, bounds: tuple[float, ...]) -> None:
        self._name = name
        self._what = what
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def metric(self, labels: tuple[str, ...]) -> Metric:
        buckets = []
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        family = HistogramMetricFamily(self._name, self._what, labels=LABELS)
        family.add_metric(labels, buckets, self._sum)
        return family


class SimMetrics:
    """Of one engine. Gauges and counters are read from it when they are asked for. rank: among the server's."""

    def __init__(self, engine: Engine, model: str, rank: int) -> None:
        self._engine = engine
        self._rank = str(rank)
        self._labels = (model, self._rank)
        self._ended = Counter(dict.fromkeys(FINISH_REASONS, 0))
        self._ttft = Histogram("vllm:time_to_first_token_seconds", "Arrival to first token", TTFT_BUCKETS)
        self._gaps = Histogram("vllm:inter_token_latency_seconds", "Between two tokens of a request", GAP_BUCKETS)
        self._e2e = Histogram("vllm:e2e_request_latency_seconds", "Arrival to last token", REQUEST_BUCKETS)
        self._queue = Histogram("vllm:request_queue_time_seconds", "Arrival to start", REQUEST_BUCKETS)
        self._prefill = Histogram("vllm:request_prefill_time_seconds", "Start to first token", REQUEST_BUCKETS)
        self._decode = Histogram("vllm:request_decode_time_seconds", "First token to last", REQUEST_BUCKETS)
        self._steps = Histogram("vllm:iteration_tokens_total", "Tokens of a step of the engine", TOKEN_BUCKETS)

    def stepped(self, output: StepOutput) -> None:
        for first in output.first_tokens:
            self._ttft.observe(first.ttft_s)
        for gap_s, tokens in output.token_gaps_s:
            self._gaps.observe(gap_s, tokens)
        computed = sum(first.prompt_tokens - first.cached_tokens for first in output.first_tokens)
        self._steps.observe(computed + len(output.decoding) + len(output.finished))

    def finished(self, request: FinishedRequest, reason: str) -> None:
        self._ended[reason] += 1
        self._e2e.observe(request.finished_s - request.arrived_s)
        self._queue.observe(request.started_s - request.arrived_s)
        self._prefill.observe(request.first_token_s - request.started_s)
        self._decode.observe(request.finished_s - request.first_token_s)

    def aborted(self) -> None:
        self._ended["abort"] += 1

    def failed(self) -> None:
        self._ended["error"] += 1

    def collect(self) -> Iterator[Metric]:
        engine, counters = self._engine, self._engine.counters
        yield self._gauge("vllm:num_requests_running", "Requests in the batch", engine.running)
        yield self._gauge("vllm:num_requests_waiting", "Requests waiting to be processed", engine.waiting)
        yield self._gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", engine.kv_usage)
        yield self._counter("vllm:prefix_cache_queries", "Prompt tokens looked up", counters.prefix_cache_queries)
        yield self._counter("vllm:prefix_cache_hits", "Prompt tokens found", counters.prefix_cache_hits)
        external = counters.external_prefix_cache_hits
        yield self._counter("vllm:external_prefix_cache_hits", "Prompt tokens read from elsewhere", external)
        yield self._counter("vllm:prompt_tokens", "Prompt tokens processed", counters.prompt_tokens)
        yield self._counter("vllm:generation_tokens", "Tokens generated", counters.generation_tokens)
        yield self._counter("vllm:num_preemptions", "Times a request lost its blocks", counters.preemptions)
        ended = CounterMetricFamily(
            "vllm:request_success", "Requests by how they ended", labels=(*LABELS, "finished_reason")
        )
        for reason, count in self._ended.items():
            ended.add_metric((*self._labels, reason), count)
        yield ended
        for histogram in (self._ttft, self._gaps, self._e2e, self._queue, self._prefill, self._decode, self._steps):
            yield histogram.metric(self._labels)
        profile = engine.profile
        config = {
            "block_size": str(profile.block_size),
            "num_gpu_blocks": str(profile.pool_blocks),
            "engine": self._rank,
        }
        info = GaugeMetricFamily("vllm:cache_config_info", "The cache's configuration", labels=list(config))
        info.add_metric(list(config.values()), 1)
        yield info

    def _gauge(self, name: str, what: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, what, labels=LABELS)
        family.add_metric(self._labels, value)
        return family

    def _counter(self, name: str, what: str, value: float) -> Metric:
        family = CounterMetricFamily(name, what, labels=LABELS)
        family.add_metric(self._labels, value)
        return family


class Scrape:
    """What a server's engines tell in one text: the samples of a metric stand together."""

    def __init__(self, engines: Sequence[SimMetrics]) -> None:
        self._engines = engines
        self._started_at = time.time()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        started = GaugeMetricFamily("process_start_time_seconds", "Start of the server, Unix seconds")
        started.add_metric((), self._started_at)
        yield started
        for family, *others in zip(*(engine.collect() for engine in self._engines), strict=True):
            for other in others:
                family.samples += other.samples
            yield family
