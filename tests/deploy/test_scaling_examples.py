"""What scales vLLM pods by what the gateways measure: the chart's ScaledObject, and a HorizontalPodAutoscaler."""

import pytest
import yaml

from tests.deploy.chart_variants import needs_go, one
from tests.deploy.helm_chart import KUBERNETES, ChartError, manifests
from tests.deploy.metric_names import recorded, served, used

SCALED = {"vllm": {"enabled": True, "autoscaling": {"enabled": True, "targetLoad": 0.7, "requestsPerInstance": 32}}}


@needs_go
def test_the_scaled_object_scales_the_servers_of_the_chart_by_what_is_there():
    found = manifests(SCALED)
    spec = one(found, "ScaledObject", "dualmap-vllm")["spec"]
    target = one(found, "Deployment", spec["scaleTargetRef"]["name"])
    assert "replicas" not in target["spec"], "each upgrade would undo what was scaled"
    queries = [trigger["metadata"]["query"] for trigger in spec["triggers"]]
    assert used(queries) <= served() | recorded()
    assert all('namespace="default",deployment="dualmap"' in query for query in queries)
    assert [trigger["metadata"]["threshold"] for trigger in spec["triggers"]] == ["1", "0.7", "32"]
    assert {trigger["metricType"] for trigger in spec["triggers"]} == {"AverageValue"}


@needs_go
def test_the_chart_scales_only_servers_that_it_starts():
    with pytest.raises(ChartError, match=r"vllm\.autoscaling\.enabled: the chart scales the vLLM servers"):
        manifests({"vllm": {"autoscaling": {"enabled": True}}})


def test_the_autoscaler_reads_what_the_adapter_serves_of_what_is_recorded():
    text = (KUBERNETES / "hpa.yaml").read_text()
    comment = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines() if line.startswith("#"))
    rules = yaml.safe_load(comment[comment.index("rules:") :])["rules"]["external"]
    assert {rule["seriesQuery"] for rule in rules} <= recorded()
    hpa = yaml.safe_load(text)
    asked = {metric["external"]["metric"]["name"] for metric in hpa["spec"]["metrics"]}
    assert asked == {rule["name"]["as"] for rule in rules}
