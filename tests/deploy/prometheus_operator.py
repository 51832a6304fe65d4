"""What the Prometheus operator makes of a PodMonitor, as its API documents: a scrape configuration, here with the pods
given instead of looked for."""

import re
from collections.abc import Mapping
from typing import Any


def _snake(relabeling: Mapping[str, Any]) -> dict[str, Any]:
    return {re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", name): value for name, value in relabeling.items()}


def pod_label(name: str) -> str:
    return f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9_]', '_', name)}"


def target(pod: Mapping[str, Any], address: str) -> dict[str, Any]:
    """A container of a pod as Prometheus discovers it, but for its address."""
    metadata, (container,) = pod["metadata"], pod["spec"]["containers"]
    labels = {pod_label(name): value for name, value in metadata["labels"].items()}
    labels["__meta_kubernetes_namespace"] = metadata["namespace"]
    labels["__meta_kubernetes_pod_name"] = metadata["name"]
    labels["__meta_kubernetes_pod_container_name"] = container["name"]
    return {"targets": [address], "labels": labels}


def scrape_config(monitor: Mapping[str, Any], targets_file: str) -> dict[str, Any]:
    """targets_file: for lists of `target`."""
    metadata, spec = monitor["metadata"], monitor["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    job = f"{metadata['namespace']}/{metadata['name']}"
    relabelings: list[dict[str, Any]] = [
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        {"target_label": "job", "replacement": job},
    ]
    if "jobLabel" in spec:
        relabelings.append({"source_labels": [pod_label(spec["jobLabel"])], "target_label": "job", "regex": "(.+)"})
    relabelings.append({"target_label": "endpoint", "replacement": endpoint["port"]})
    relabelings += map(_snake, endpoint["relabelings"])
    return {
        "job_name": f"podMonitor/{job}/0",
        "file_sd_configs": [{"files": [targets_file], "refresh_interval": "1s"}],
        "honor_labels": endpoint["honorLabels"],
        "metrics_path": endpoint["path"],
        "relabel_configs": relabelings,
    }
