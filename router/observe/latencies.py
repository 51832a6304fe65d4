"""How long requests take, by pool and model, and how Prometheus sees it."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from dualmap.router.observe.distribution import TOKEN_BOUNDS, Distribution

MAX_MODELS = 100  # adapters come and go for months; those after so many share one label
OTHER = "other"

_FAMILIES = {  # by attribute of Latencies: name and documentation
    "time_to_first_token_s": (
        "dualmap_time_to_first_token_seconds",
        "Streams only: from the complete request to the first event that holds a token.",
    ),
    "time_per_output_token_s": (
        "dualmap_time_per_output_token_seconds",
        "Streams only: from the first token of a complete answer to its last byte, for each further token.",
    ),
    "queue_s": ("dualmap_queue_seconds", "Time a dispatched request waited in the gateway."),
    "end_to_end_s": (
        "dualmap_end_to_end_seconds",
        "From the complete request to the last byte of a complete answer.",
    ),
    "estimated_ttft_s": (
        "dualmap_estimated_time_to_first_token_seconds",
        "Time to first token as estimated when its instance was chosen, for those observed.",
    ),
    "estimate_error_s": (
        "dualmap_time_to_first_token_error_seconds",
        "Distance between the estimated and the observed time to first token.",
    ),
}


class Latencies:
    """Of the requests for one model of one pool."""

    def __init__(self) -> None:
        self.time_to_first_token_s = Distribution()
        self.time_per_output_token_s = Distribution(TOKEN_BOUNDS)
        self.queue_s = Distribution()
        self.end_to_end_s = Distribution()
        self.estimated_ttft_s = Distribution()
        self.estimate_error_s = Distribution()


class LatencyTable:
    """by_model: what was observed, by pool and model."""

    def __init__(self) -> None:
        self.by_model: dict[tuple[str, str], Latencies] = {}
        self._last: Latencies | None = None  # of these, most often asked for again
        self._last_pool = self._last_model = ""

    def of(self, pool: str, model: str) -> Latencies:
        """Where to observe a request. model: one that is served; empty where that is not known."""
        if self._last is not None and self._last_pool == pool and self._last_model == model:
            return self._last
        found = self.by_model.get((pool, model))
        if found is None:
            found = self.by_model.setdefault((pool, model if len(self.by_model) < MAX_MODELS else OTHER), Latencies())
        self._last_pool, self._last_model, self._last = pool, model, found
        return found


def latency_metrics(by_model: Mapping[tuple[str, str], Latencies]) -> Iterator[Metric]:
    for attribute, (name, documentation) in _FAMILIES.items():
        family = HistogramMetricFamily(name, documentation, labels=["pool", "model"])
        for labels, latencies in sorted(by_model.items()):
            distribution: Distribution = getattr(latencies, attribute)
            family.add_metric(labels, distribution.buckets(), distribution.total)
        yield family
