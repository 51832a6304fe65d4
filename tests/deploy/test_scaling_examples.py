"""What scales vLLM pods by what the gateways measure: the chart's ScaledObject, and a HorizontalPodAutoscaler."""

import json

import pytest
import yaml

from dualmap.router.config.load import load_config
from dualmap.router.config.pool_settings import KubernetesDiscovery
from tests.deploy.chart_variants import VARIANTS, needs_go, one
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
def test_the_gateways_plan_within_the_bounds_of_the_scaled_object_down_to_zero():
    values = {"vllm": {"enabled": True, "autoscaling": {"enabled": True, "minReplicas": 0, "maxReplicas": 3}}}
    found = manifests(values | {"config": {"scaling": {"target_load": 0.6}}})
    spec = one(found, "ScaledObject", "dualmap-vllm")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 3)
    asked = [trigger["metadata"] for trigger in spec["triggers"] if "activationThreshold" in trigger["metadata"]]
    assert "dualmap_replicas" in asked[0]["query"]
    assert {trigger["activationThreshold"] for trigger in asked} == {"0"}
    config = yaml.safe_load(one(found, "ConfigMap", "dualmap")["data"]["dualmap.yaml"])
    scaling = {"min_replicas": 0, "max_replicas": 3, "scale_to_zero_after_s": 300, "target_load": 0.6}
    assert config["scaling"] == scaling
    assert load_config(None, config).all_pools()[""].scheduler.cold_start_timeout_s == 300.0


@needs_go
def test_each_role_has_servers_and_a_scaled_object_of_its_own():
    found = manifests(VARIANTS["roles"])
    config = yaml.safe_load(one(found, "ConfigMap")["data"]["dualmap.yaml"])
    bounds = {"prefill": (1, 6), "decode": (2, 4)}
    revisions = set()
    for role, (least, most) in bounds.items():
        template = one(found, "Deployment", f"dualmap-vllm-{role}")["spec"]["template"]
        assert template["metadata"]["labels"]["llm-d.ai/role"] == role
        revisions.add(template["metadata"]["labels"][KubernetesDiscovery(label_selector="app").revision_label])
        arguments = template["spec"]["containers"][0]["args"]
        kv_role = json.loads(arguments[arguments.index("--kv-transfer-config") + 1])["kv_role"]
        assert kv_role == {"prefill": "kv_producer", "decode": "kv_consumer"}[role]
        spec = one(found, "ScaledObject", f"dualmap-vllm-{role}")["spec"]
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (least, most)
        (trigger,) = spec["triggers"]
        assert f'role="{role}"' in trigger["metadata"]["query"]
        assert config["scaling"][role] == {"min_replicas": least, "max_replicas": most}
    assert len(revisions) == 1, "both roles read each other's prompts"
    assert load_config(None, config).all_pools()[""].scaled_roles == ("prefill", "decode")
    policy = one(found, "NetworkPolicy", "dualmap-vllm")["spec"]
    assert policy["ingress"][0] == {"from": [{"podSelector": policy["podSelector"]}]}


@needs_go
@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"picker": {"enabled": True}}, r"vllm\.roles: a picker's proxy sends each request once"),
        ({"vllm": {"autoscaling": {"enabled": True, "minReplicas": 0}}}, "minReplicas: 0 is for servers that do all"),
    ],
)
def test_roles_that_would_get_nothing_are_refused_in_words(values, complaint):
    roles = {"enabled": True, "roles": {"prefill": {}, "decode": {}}}
    with pytest.raises(ChartError, match=complaint):
        manifests(values | {"vllm": roles | values.get("vllm", {})})


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
