"""router/observe/latencies.py: what is observed by pool and model."""

from dualmap.router.observe.latencies import MAX_MODELS, OTHER, LatencyTable, latency_metrics


def test_models_beyond_the_most_share_a_series_in_each_pool():
    table = LatencyTable()
    for number in range(MAX_MODELS + 5):
        table.of("a", f"adapter-{number}").queue_s.observe(1.0)
    table.of("b", "late").queue_s.observe(1.0)
    assert len(table.by_model) == MAX_MODELS + 2
    table.of("a", "adapter-0").queue_s.observe(1.0)
    (queue,) = (family for family in latency_metrics(table.by_model) if family.name == "dualmap_queue_seconds")
    counts = {(s.labels["pool"], s.labels["model"]): s.value for s in queue.samples if s.name.endswith("_count")}
    assert counts["a", "adapter-0"] == 2
    assert counts["a", OTHER] == 5
    assert counts["b", OTHER] == 1
